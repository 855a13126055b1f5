"""What the commands of the command line do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from isoplast import nn, streams
from isoplast._core.errors import IsoplastError
from isoplast._core.settings import Settings
from isoplast.cli import _inspect as _inspect_commands
from isoplast.cli import _methods as _methods_command
from isoplast.cli._display import display
from isoplast.cli._summary import summary_line, summary_table
from isoplast.study import (
    Outcome,
    Run,
    RunDirectory,
    RunFailed,
    Study,
    execute,
    find_study,
    load_study,
    parse_yaml,
    run_study,
)

_Number = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
_Word = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
_Path = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
_Settings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...", help_behavior_hint="")]
_File = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
_Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]


def _named(text: str, names: Sequence[str]) -> Any:
    """Help that lists what there is, from the registries."""
    return tyro.conf.arg(help=f"{text}: {', '.join(names)}.")


_Stream = Annotated[str, _named("Stream of tasks", streams.names())]
_Data = Annotated[str, _named("Data set", streams.data_names())]
# gpt reads tokens, and every stream is one of images.
_Net = Annotated[str, _named("Network", [name for name in nn.names() if name != "gpt"])]
_Method = Annotated[
    str, tyro.conf.arg(metavar="NAME", help="Remedy, or several with +; `isoplast methods` lists them.")
]
_Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]


def run_command(words: Sequence[str]) -> int:
    """Parse the words of a command line and do what they say; returns the exit status."""
    commands: dict[str, Callable[..., int]] = {
        "demo": demo,
        "run": run,
        "study": study,
        "report": report,
        "methods": list_methods,
        "inspect": _inspect_commands.inspect,
        "repair": _inspect_commands.repair,
        "lens": lens,
    }
    status: int = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="isoplast",
        description="isoplast keeps neural networks able to learn (arXiv:2606.09762).\n"
        "`isoplast --version` prints the version.",
        args=list(words),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return status


def demo(*, out: Path = Path("runs/demo"), jobs: _Number = None) -> int:
    """See networks lose their ability to learn, and keep it: about two minutes.

    Adam, AdamW, AdamO and a rescue, on handwritten digits; nothing is downloaded.

    Args:
        out: Directory of the results.
        jobs: Number of processes; by default one for each core.
    """
    return _study(Study.load(find_study("demo")), out, jobs, threads=1)


def study(file: _File, *, out: _Path = None, jobs: _Number = None, threads: int = 1) -> int:
    """Run a study: streams x methods x seeds, in parallel processes.

    Stopped at any time, the same command goes on where it was.

    Args:
        file: A YAML file, or the name of a ready-made study.
        out: Directory of the results; by default runs/NAME.
        jobs: Number of processes; by default one for each core.
        threads: Threads of each process; results depend on it in their last bits.
    """
    chosen = Study.load(find_study(file))
    return _study(chosen, out or Path("runs") / chosen.name, jobs, threads)


def run(
    *,
    stream: _Stream = Run.stream,
    data: _Data = Run.data,
    samples: _Number = None,
    tasks: int = Run.tasks,
    epochs: int = Run.epochs,
    batch_size: int = Run.batch_size,
    net: _Net = Run.net,
    width: _Number = None,
    depth: _Number = None,
    activation: _Word = None,
    normalization: _Word = None,
    linear: _Word = None,
    net_options: _Settings = (),
    method: _Method = Run.method,
    hyper: _Settings = (),
    lr: float = Run.lr,
    seed: int = Run.seed,
    device: str = Run.device,
    threads: int = 1,
    out: Path = Path("runs/single"),
) -> int:
    """Do one run: one method on one stream with one seed.

    Args:
        samples: Number of images; by default all.
        tasks: Number of tasks.
        epochs: Passes over each task.
        batch_size: Images per optimizer step.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        activation: Hidden nonlinearity, such as relu or maxmin.
        normalization: What stands in front of it, such as layernorm; by default nothing.
        linear: plain or isometric layers.
        net_options: Further settings of the network, such as gain=1.5.
        hyper: The method's hyper-parameters, such as isometry=0.03.
        lr: Learning rate.
        seed: Seed of everything random.
        device: cpu or cuda.
        threads: Threads of torch; results depend on it in their last bits.
        out: Directory that gets a directory for this run.
    """
    named = {
        "width": width,
        "depth": depth,
        "activation": activation,
        "normalization": normalization,
        "linear": linear,
    }
    given = tuple((key, value) for key, value in named.items() if value is not None)
    chosen = Run(
        stream=stream,
        data=data,
        samples=samples,
        tasks=tasks,
        epochs=epochs,
        batch_size=batch_size,
        net=net,
        net_options=given + _key_values("--net-options", net_options, dict(given)),
        method=method,
        hyper=_key_values("--hyper", hyper),
        lr=lr,
        seed=seed,
        device=device,
    )
    try:
        directory = execute(chosen, out, threads=threads, say=lambda line: print(line, flush=True))
    except RunFailed as failure:
        Console(stderr=True).print(Text(f"isoplast: failed: {failure}"), soft_wrap=True)
        return 1
    _conclude(directory)
    return 0


def report(directory: _Directory, *, out: _Path = None) -> int:
    """Write the report of a study, or of a run, as one HTML page.

    Args:
        directory: Directory of the results.
        out: The page; by default report.html in that directory. A name that ends in .svg gets the main
            figure alone.
    """
    print(_write_report(directory, out))
    return 0


def lens(*, out: Path = Path("runs/lens"), jobs: _Number = None, page: _Path = None) -> int:
    """Measure what every remedy does to the singular values: a quarter of an hour.

    Every method on the random-label stream, three seeds.

    Stopped at any time, the same command goes on.

    Args:
        out: Directory of the results.
        jobs: Number of processes; by default one for each core.
        page: The document with the table; by default remedies-through-isometry.md in that directory. The
            figure is put beside it.
    """
    from isoplast.cli._spectra import write_lens

    status = _study(Study.load(find_study("lens")), out, jobs, threads=1)
    if status != 130:
        print(f"lens: {write_lens(out, page)}")
    return status


def list_methods(names: _Names = ()) -> int:
    """List the remedies: reference, defaults and what they control.

    Args:
        names: Explain these alone, such as adamo or adamo+layernorm.
    """
    print("\n\n".join(map(_methods_command.details, names)) if names else _methods_command.listing())
    return 0


def _study(chosen: Study, out: Path, jobs: int | None, threads: int) -> int:
    console = Console()
    missing = [run for run in chosen.runs if RunDirectory(out / run.id).status().state != "done"]
    console.print(Text(f"{chosen.name}: {len(missing)} of {len(chosen.runs)} runs to do, results in {out}"))
    try:
        with display(console, missing) as shown:
            outcomes = run_study(chosen, out, jobs=jobs, threads=threads, display=shown)
    except KeyboardInterrupt:
        done = sum(RunDirectory(out / run.id).status().state == "done" for run in chosen.runs)
        count = f"{done} of {len(chosen.runs)} runs are complete"
        console.print(Text(f"interrupted: {count}; the same command goes on from here"))
        return 130
    return _show(console, out, outcomes)


def _show(console: Console, out: Path, outcomes: Sequence[Outcome]) -> int:
    frame = load_study(out)
    if len(frame.filter(frame["task"] >= 0)):
        console.print(summary_table(frame))
        console.print(Text(f"report: {_write_report(out)}"), soft_wrap=True)
    failed = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failed:
        where = f"{outcome.run.label}, seed {outcome.run.seed}"
        line = f"failed: {where}: {outcome.failure}; see {outcome.directory.log}"
        console.print(Text(line, style="red"), soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} of {len(outcomes)} runs failed; the same command tries them again")
    return 1 if failed else 0


def _write_report(directory: Path, out: Path | None = None) -> Path:
    from isoplast.report import write_report  # brings plotly, which a single run need not wait for

    return write_report(directory, out)


def _conclude(directory: RunDirectory) -> None:
    print(f"{summary_line(load_study(directory.path))}; results in {directory.path}")


def _key_values(flag: str, words: Sequence[str], taken: Collection[str] = ()) -> Settings:
    """KEY=VALUE words as settings, none of them there twice or taken; a value is read as YAML reads it."""
    pairs: dict[str, Any] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise IsoplastError(f"{flag} got {word!r}: write KEY=VALUE")
        if key in pairs or key in taken:
            raise IsoplastError(f"{flag} got {word!r}, but {key} is given already: give it once")
        pairs[key] = parse_yaml(value, f"{flag} {key}")
    return tuple(pairs.items())
