"""`isoplast demo | run | study | report | spectra`: doing runs, and showing what they gave."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.text import Text

from isoplast import data, nn, streams
from isoplast._core.errors import IsoplastError
from isoplast._core.text import escaped, one_line
from isoplast.cli._display import display
from isoplast.cli._summary import summary_line, summary_sentence, summary_table
from isoplast.cli._words import merged, parse_words
from isoplast.study import (
    EXECUTORS,
    SINKS,
    Executor,
    Outcome,
    Run,
    RunDirectory,
    RunFailed,
    Study,
    Tuning,
    execute,
    find_study,
    freeze,
    load_study,
    make_executor,
    run_study,
    said,
    select,
    sweep,
)

Number = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
_Real = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
FilePath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
_File = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE_OR_NAME", help_behavior_hint="")]
_Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
_Words = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")
]


def _named(text: str, names: Sequence[str], default: object) -> Any:
    """Help that lists what there is, from the registries."""
    return tyro.conf.arg(
        metavar="NAME", help=f"{text}: {', '.join(names)}.", help_behavior_hint=f"(default: {default})"
    )


_Stream = Annotated[str | None, _named("Sequence of tasks", streams.names(), Run.stream)]
_Data = Annotated[str | None, _named("Data set", data.data_names(), "digits")]
_Net = Annotated[str | None, _named("Network", nn.names(), Run.net)]
_Method = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="NAME",
        help="Method, or several with +; `isoplast methods` lists them.",
        help_behavior_hint=f"(default: {Run.method})",
    ),
]
_Stage = Annotated[
    Literal["all", "sweep", "select", "freeze", "run", "report"],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="[STAGE]", help_behavior_hint="(default: all)"),
]
_Address = Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")]
_Executor = Annotated[
    str, tyro.conf.arg(metavar="NAME", help=f"Where the runs are done: {', '.join(EXECUTORS.names())}.")
]
_Sinks = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(
        metavar="NAME", help=f"Where the numbers go, too: {', '.join(SINKS.names())}.", help_behavior_hint=""
    ),
]


def demo(*, out: Path = Path("runs/demo"), jobs: Number = None) -> int:
    """See networks lose their ability to learn, and keep it: a minute or two.

    Adam, AdamW, AdamO and a rescue, on handwritten digits; nothing is downloaded.

    Args:
        out: Directory of the results.
        jobs: Number of processes; by default one for each core.
    """
    return _study(Study.load(find_study("demo")), out, jobs, threads=1)


def study(
    file: _File,
    words: _Words = (),
    /,
    *,
    out: FilePath = None,
    jobs: Number = None,
    threads: int = 1,
    executor: _Executor = "local",
    address: _Address = None,
    sink: _Sinks = (),
) -> int:
    """Run a study: problems x methods x seeds, in parallel processes.

    Stopped at any time, the same command goes on where it was.

    Args:
        file: A YAML file, or the name of a ready-made study.
        words: Settings that replace those of all runs (lr=1e-3 learner.epochs=5), or keys of the study
            (seeds=[0,1]), or settings of the executor (executor.partition=gpu).
        out: Directory of the results; by default runs/NAME.
        jobs: Number of runs at the same time; by default as many as there is room for.
        threads: Threads of each process; results depend on it in their last bits.
        executor: Where the runs are done.
        address: Of the Ray cluster (executor.address).
    """
    given = parse_words(words)
    if sink:
        given = merged({"sinks": list(sink)}, given)
    flags = {} if address is None else {"executor.address": address}
    settings = merged(flags, {"executor": given.pop("executor", {})})["executor"]
    if not isinstance(settings, dict):
        raise IsoplastError(f"got executor={settings}: write --executor {settings}")
    chosen = Study.load(find_study(file), given)
    where = make_executor(executor, settings)
    return _study(chosen, out or Path("runs") / chosen.name, jobs, threads, where)


def tune(
    file: _File,
    stage: _Stage = "all",
    /,
    *,
    out: FilePath = None,
    jobs: Number = None,
    threads: int = 1,
    executor: _Executor = "local",
) -> int:
    """Tune every method on the same space and budget, then freeze a study.

    Stages: sweep (do the trials), select (show the best of every method), freeze (write the study with
    them), run (do it), report. Each does only what is missing; all does the first three.

    Args:
        file: A study in YAML with one more key, tune.
        stage: Which stage.
        out: Directory of the results; by default runs/NAME-tuning.
        jobs: Number of runs at the same time; by default as many as there is room for.
        threads: Threads of each process; results depend on it in their last bits.
        executor: Where the runs are done.
    """
    tuning = Tuning.load(Path(file))
    out = out or Path("runs") / f"{tuning.study.name}-tuning"
    trials, frozen = out / "sweep", out / f"{tuning.study.name}.yaml"
    if stage in ("all", "sweep"):
        status = _sweep(tuning, trials, jobs, threads, executor)
        if status or stage == "sweep":
            return status
    if stage == "run":
        return _study(Study.load(frozen), out / "evaluation", jobs, threads, executor)
    if stage == "report":
        print(_write_report(out / "evaluation"))
        return 0
    choices = select(tuning, trials)
    for choice in choices:
        print("\n".join(said(choice)))
    if stage != "select":
        freeze(tuning, choices, frozen)
        print(f"frozen: {frozen}; isoplast tune {file} run does it")
    return 0


def _sweep(tuning: Tuning, out: Path, jobs: int | None, threads: int, executor: str) -> int:
    console = Console()
    try:
        with _terminable(), display(console, []) as shown:
            outcomes = sweep(tuning, out, jobs=jobs, threads=threads, display=shown, executor=executor)
    except KeyboardInterrupt:
        console.print(Text("interrupted; the same command goes on from here"))
        return 130
    failed = [outcome for outcome in outcomes if outcome.failure]
    console.print(Text(f"sweep: {len(outcomes)} runs, {len(failed)} of them failed; results in {out}"))
    return 0


def run(
    words: _Words = (),
    /,
    *,
    stream: _Stream = None,
    data: _Data = None,
    samples: Number = None,
    tasks: Number = None,
    net: _Net = None,
    width: Number = None,
    depth: Number = None,
    method: _Method = None,
    epochs: Number = None,
    batch_size: Number = None,
    lr: _Real = None,
    seed: Number = None,
    device: str = Run.device,
    threads: int = 1,
    out: Path = Path("runs/single"),
    sink: _Sinks = (),
) -> int:
    """Do one run: one method on one problem with one seed.

    Every setting can be written as KEY=VALUE, read as YAML reads it:

    isoplast run data=cifar10 data.samples=1000 method.isometry=1e-2

    Args:
        words: Settings; the flags below are short for the most usual ones.
        samples: Number of samples of the data; by default all.
        tasks: Number of tasks; by default the stream's own.
        width: Units of a hidden layer; by default the network's own.
        depth: Number of hidden layers; by default the network's own.
        epochs: Passes over each task (default: 25).
        batch_size: Samples for an optimizer step (default: 64).
        lr: Learning rate (default: 0.001).
        seed: Seed of everything random (default: 0).
        device: cpu or cuda.
        threads: Threads of torch; results depend on it in their last bits.
        out: Directory that gets a directory for this run.
    """
    flags = {
        **{"stream": stream, "data": data, "net": net, "method": method},
        **{"data.samples": samples, "stream.tasks": tasks, "net.width": width, "net.depth": depth},
        **{"learner.epochs": epochs, "learner.batch_size": batch_size, "lr": lr, "seed": seed},
    }
    given = {key: value for key, value in flags.items() if value is not None}
    chosen = Run.from_mapping({"device": device, **merged(given, parse_words(words))})
    try:
        with _terminable():
            directory = execute(
                chosen, out, threads=threads, sinks=sink, say=lambda line: print(line, flush=True)
            )
    except RunFailed as failure:
        Console(stderr=True).print(Text(one_line(f"isoplast: failed: {failure}")), soft_wrap=True)
        return 1
    _conclude(directory)
    return 0


def report(directory: _Directory, *, out: FilePath = None, figures: FilePath = None) -> int:
    """Write the report of a study or a run as a page, or its figures and tables.

    Args:
        directory: Directory of the results.
        out: The page; by default report.html in that directory. A name that ends in .svg, .pdf or .png gets
            the main figure alone, one that ends in .csv or .tex the ranked table of methods.
        figures: A folder that gets all figures (.svg, .pdf) and tables (.csv, .tex) instead.
    """
    if figures is None:
        print(escaped(str(_write_report(directory, out))))
        return 0
    if out is not None:
        raise IsoplastError("got --out and --figures: give one of them")
    from isoplast.report import write_figures

    for path in write_figures(directory, figures):
        print(escaped(str(path)))
    return 0


def spectra(*, out: Path = Path("runs/spectra"), jobs: Number = None, page: FilePath = None) -> int:
    """Measure what every method does to the singular values: a quarter of an hour.

    Every method on the random-label stream, three seeds.

    Stopped at any time, the same command goes on.

    Args:
        out: Directory of the results.
        jobs: Number of processes; by default one for each core.
        page: The document with the table; by default methods-through-isometry.md in that directory. The
            figure is put beside it.
    """
    from isoplast.cli._spectra import write_spectra

    status = _study(Study.load(find_study("spectra")), out, jobs, threads=1)
    if status != 130:
        print(f"spectra: {write_spectra(out, page)}")
    return status


def _study(
    chosen: Study, out: Path, jobs: int | None, threads: int, executor: str | Executor = "local"
) -> int:
    console = Console()
    missing = [run for run in chosen.runs if RunDirectory(out / run.id).status().state != "done"]
    count = f"{len(missing)} of {len(chosen.runs)} runs to do"
    console.print(Text(escaped(f"{chosen.name}: {count}, results in {out}")))
    try:
        with _terminable(), display(console, missing) as shown:
            outcomes = run_study(chosen, out, jobs=jobs, threads=threads, display=shown, executor=executor)
    except KeyboardInterrupt:
        done = sum(RunDirectory(out / run.id).status().state == "done" for run in chosen.runs)
        count = f"{done} of {len(chosen.runs)} runs are complete"
        console.print(Text(f"interrupted: {count}; the same command goes on from here"))
        return 130
    return _show(console, out, outcomes, chosen.sink_names)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: the terminal and the files are put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(console: Console, out: Path, outcomes: Sequence[Outcome], sinks: Sequence[str]) -> int:
    frame = load_study(out)
    if len(frame.filter(frame["task"] >= 0)):
        console.print(summary_table(frame))
        console.print(Text(summary_sentence(frame)))
        console.print(Text(escaped(f"report: {_write_report(out)}")), soft_wrap=True)
    failed = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failed:
        where = f"{outcome.run.label}, seed {outcome.run.seed}"
        line = f"failed: {where}: {outcome.failure}; see {outcome.directory.log}"
        console.print(Text(escaped(line), style="red"), soft_wrap=True)
    states = [outcome.directory.status() for outcome in outcomes if not outcome.failure]
    for sink in sinks:
        lacking = sum(state.state == "done" and sink not in state.sinks for state in states)
        if lacking:
            line = (
                f"sink {sink} lacks rows of {lacking} runs, whose logs say why; the same command sends them"
            )
            console.print(Text(line), soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} of {len(outcomes)} runs failed; the same command tries them again")
    return 1 if failed else 0


def _write_report(directory: Path, out: Path | None = None) -> Path:
    from isoplast.report import write_report  # brings plotly, which a single run need not wait for

    return write_report(directory, out)


def _conclude(directory: RunDirectory) -> None:
    print(escaped(f"{summary_line(load_study(directory.path))}; results in {directory.path}"))
