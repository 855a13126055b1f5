"""1000 runs x 1000 tasks are a frame in 5 s, 60 methods x 10 seeds x 200 tasks a page of 8 MB in 10 s.

Both studies are made up, of rows like those that an MLP of 3 x 512 writes, and are written by the store that
runs use: the first with scores alone (a million rows, 0.2 GB), the second with all instruments (0.5 GB).
The time is that of the clock, the best of --repeats.

    python benchmarks/large_studies_are_read_in_seconds.py [--folder FOLDER] [--repeats 3] [--small]

FOLDER keeps what is written for the next time; --small takes a tenth of the tasks.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isoplast.report import write_report
from isoplast.study import Run, RunDirectory, Status, Study, load_study

SCORES = {"data": {"name": "digits", "samples": 128}, "method": "adam", "instruments": False}
LAYERS, UNITS = ["layers.0", "layers.1", "layers.2", "head"], [f"activations.{i}" for i in range(3)]
FRAME_LIMIT, PAGE_LIMIT, PAGE_SIZE = 5.0, 10.0, 8e6


def row(task: int, draw: random.Random, health: float, instruments: bool) -> dict[str, Any]:
    """The metrics of a task, with all digits."""
    found: dict[str, Any] = {
        "task": task,
        "method_active": "adam",
        "steps": 0 if task < 0 else 512,
        "seconds": draw.random() + 5,
        "primary": "accuracy",
        "chance": 0.1,
        "accuracy": min(1.0, health * draw.uniform(0.9, 1)),
        "loss": draw.random() + 1 - health,
    }
    if not instruments:
        return found
    for name in ("sigma_min", "sigma_mean", "sigma_max", "sigma_mean_square"):
        found[name] = [draw.random() for _ in LAYERS]
    for name in ("condition_number", "effective_rank", "gram_deviation"):
        found[name] = [draw.random() * 100 for _ in LAYERS]
    quantiles = [sorted(draw.random() for _ in range(33)) for _ in LAYERS]
    found |= {
        "layers": LAYERS,
        "units": UNITS,
        "sigma_count": [512, 512, 512, 10],
        "sigma_quantiles": quantiles,
    }
    for name in ("dead", "dormant"):
        found[name] = [draw.random() * (1 - health) for _ in UNITS]
    for name in ("ntk_condition_number", "ntk_participation_rank", "jacobian_condition_number"):
        found[name] = draw.random() * 1e4
    for name in ("plasticity", "plasticity_low", "plasticity_high", "plasticity_learned"):
        found[name] = draw.random()
    return found | {"ntk_size": 240}


def write(folder: Path, runs: list[Run], instruments: bool) -> Path:
    """The directory of the results of these runs, written unless it is there."""
    if (folder / "index.json").exists():
        return folder
    for number, run in enumerate(runs):
        draw = random.Random(number)
        decay = draw.uniform(0.99, 1)
        directory = RunDirectory.create(folder, run)
        directory.append(row(task, draw, decay**task, instruments) for task in range(-1, run.tasks))
        directory.write_status(
            Status("done", tasks=run.tasks, steps=512 * run.tasks, seconds=9.0, attempts=1)
        )
    Study("made-up", runs).describe(folder)
    return folder


def many(tasks: int) -> list[Run]:
    """1000 runs."""
    return [
        Run(stream={"name": "random-labels", "tasks": tasks}, seed=seed, **SCORES) for seed in range(1000)
    ]


def wide(tasks: int) -> list[Run]:
    """60 methods x 10 seeds."""
    stream = {"name": "random-labels", "tasks": tasks}
    arms = [(f"arm {number}", 1e-4 * 1.1**number) for number in range(60)]
    return [
        Run(stream=stream, data={"name": "digits", "samples": 128}, lr=lr, label=label, seed=seed)
        for seed in range(10)
        for label, lr in arms
    ]


def best(repeats: int, act: Callable[[], Any]) -> float:
    """Seconds of the quickest."""

    def seconds() -> Iterator[float]:
        for _ in range(repeats):
            start = time.perf_counter()
            act()
            yield time.perf_counter() - start

    return min(seconds())


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    share = 10 if given.small else 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        read = write(folder / f"many-{1000 // share}", many(1000 // share), instruments=False)
        seconds = best(given.repeats, lambda: load_study(read))
        print(
            f"1000 runs x {1000 // share} tasks: frame in {seconds:.1f} s (at most {FRAME_LIMIT / share:g})"
        )
        shown = write(folder / f"wide-{200 // share}", wide(200 // share), instruments=True)
        seconds = best(given.repeats, lambda: load_study(shown))
        print(f"60 methods x 10 seeds x {200 // share} tasks: frame in {seconds:.1f} s")
        seconds = best(given.repeats, lambda: write_report(shown))
        size = (shown / "report.html").stat().st_size
        print(f"    page in {seconds:.1f} s (at most {PAGE_LIMIT:g}), {size / 1e6:.1f} MB (at most 8)")


if __name__ == "__main__":
    main()
