"""`isoplast demo | run | study | report | spectra`: doing runs, and showing what they gave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from isoplast import data, nn, streams
from isoplast._core.errors import IsoplastError
from isoplast._core.text import escaped, one_line
from isoplast.cli._arguments import (
    Address,
    Directory,
    ExecutorName,
    FileOrName,
    FilePath,
    Flag,
    Number,
    Sinks,
    Words,
)
from isoplast.cli._words import merged, parse_words
from isoplast.cli.studies._dry_run import show_plan
from isoplast.cli.studies._executor import taken_executor
from isoplast.cli.studies._running import INTERRUPTED, do_study, terminable
from isoplast.cli.studies._summary import summary_line
from isoplast.study import (
    Run,
    RunDirectory,
    RunFailed,
    Study,
    execute,
    find_study,
    load_study,
)

_Real = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]


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


def demo(*, out: Path = Path("runs/demo"), jobs: Number = None) -> int:
    """See networks lose their ability to learn, and keep it: a minute or two.

    Adam, AdamW, AdamO and a rescue, on handwritten digits; nothing is downloaded.

    Args:
        out: Directory of the results.
        jobs: Number of processes; by default one for each core.
    """
    return do_study(Study.load(find_study("demo")), out, jobs, threads=1)


def study(
    file: FileOrName,
    words: Words = (),
    /,
    *,
    out: FilePath = None,
    jobs: Number = None,
    threads: int = 1,
    executor: ExecutorName = "local",
    address: Address = None,
    dry_run: Flag = False,
    sink: Sinks = (),
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
        dry_run: Only list the runs, what they are expected to cost, and the isometry times.
    """
    given = parse_words(words)
    if sink:
        given = merged({"sinks": list(sink)}, given)
    where = taken_executor(executor, address, given)
    chosen = Study.load(find_study(file), given)
    out = out or Path("runs") / chosen.name
    if dry_run:
        return show_plan(chosen, out, jobs, threads, local=executor == "local")
    return do_study(chosen, out, jobs, threads, where)


def run(
    words: Words = (),
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
    sink: Sinks = (),
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
        with terminable():
            directory = execute(
                chosen, out, threads=threads, sinks=sink, say=lambda line: print(line, flush=True)
            )
    except RunFailed as failure:
        Console(stderr=True).print(Text(one_line(f"isoplast: failed: {failure}")), soft_wrap=True)
        return 1
    _conclude(directory)
    return 0


def report(directory: Directory, *, out: FilePath = None, figures: FilePath = None) -> int:
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
    from isoplast.cli.studies._spectra import write_spectra

    status = do_study(Study.load(find_study("spectra")), out, jobs, threads=1)
    if status != INTERRUPTED:
        print(f"spectra: {write_spectra(out, page)}")
    return status


def _write_report(directory: Path, out: Path | None = None) -> Path:
    from isoplast.report import write_report  # brings plotly, which a single run need not wait for

    return write_report(directory, out)


def _conclude(directory: RunDirectory) -> None:
    print(escaped(f"{summary_line(load_study(directory.path))}; results in {directory.path}"))
