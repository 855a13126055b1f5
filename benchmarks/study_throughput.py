"""A run of a study takes at most 1.05 times a bare loop's time, with instruments, rows and checkpoints.

Random labels by Adam, as two ready-made studies have them:

* random_labels_cifar: 1000 CIFAR-10 images, the paper's MLP (3072-512-512-512-10), batch 128, 64 passes a
  task;
* demo: 1280 handwritten digits, an MLP of 3 x 128, batch 64, 25 passes a task.

The loop is what somebody writes for this alone: torch.optim.Adam as it comes, no rows, no checkpoints,
nothing measured. Both go in turns in one process on one thread, three tasks a turn, the first of which does
not count. The processor's time is taken, so that others who use the machine count little; the ratio is
that of medians.

`--passes` trains longer on each task; with `--fused` the loop uses the fused Adam that
ours uses. With `--every N` the instruments look after every N tasks alone: a turn is then 2 N tasks, and
its time the mean over the last N.

`--workers` compares, by the clock and by the processor's time of the workers, eight runs by one worker and by
two. The clock needs two idle cores; without them compare the processor's times, which start-up is part of.

    ISOPLAST_DATA=FOLDER python benchmarks/study_throughput.py [--rounds 5] [--passes N] [--every N] [--fused]
    python benchmarks/study_throughput.py --workers --studies

FOLDER holds CIFAR-10; without the variable it is downloaded.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from isoplast.data import load_data
from isoplast.study import Progress, Run, Study, execute, find_study, run_study

TASKS = 3
LIMIT, WORKERS_LIMIT = 1.05, 1.8


def first_run(study: str, seed: int, passes: int | None = None, tasks: int = TASKS, every: int = 1) -> Run:
    """Adam's run of a ready-made study, so many tasks long."""
    changes = {"stream": {"tasks": tasks}, "methods": ["adam"], "seeds": [seed], "instruments_every": every}
    changes |= {} if passes is None else {"learner": {"epochs": passes}}
    (run,) = Study.load(find_study(study), changes).runs
    return run


def ours(run: Run, parent: Path) -> tuple[list[float], list[float]]:
    """Seconds of each task but the first, up to its checkpoint, and those of them after training."""
    trained: list[float] = []
    ends: list[float] = []

    def progressed(progress: Progress) -> None:
        if progress.done == 1:
            trained.append(time.process_time())

    def said(line: str) -> None:
        if line.startswith("task "):
            ends.append(time.process_time())

    execute(run, parent, on_progress=progressed, say=said)
    assert len(ends) == len(trained) == run.tasks
    after = [end - start for start, end in zip(trained, ends, strict=True)]
    return [end - start for start, end in itertools.pairwise(ends)], after[1:]


def bare(run: Run, fused: bool) -> list[float]:
    """The same without us."""
    data = load_data(run.data.name, samples=dict(run.data.settings)["samples"])
    net, learner = dict(run.net.settings), dict(run.learner.settings)
    inputs = data.inputs.flatten(1)
    torch.manual_seed(run.seed)
    layers: list[nn.Module] = []
    sizes = [inputs.shape[1], *[net["width"]] * net["depth"]]
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], data.classes))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
            nn.init.zeros_(module.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.lr, fused=fused or None)
    ends: list[float] = []
    for _ in range(run.tasks):
        targets = torch.randint(data.classes, (len(inputs),))
        for _ in range(learner["epochs"]):
            for rows in torch.randperm(len(inputs)).split(learner["batch_size"]):
                loss = cross_entropy(model(inputs[rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        assert loss.isfinite()
        ends.append(time.process_time())
    return [end - start for start, end in itertools.pairwise(ends)]


def compare(study: str, given: argparse.Namespace) -> None:
    """Print the times of a task and their ratio."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    between: list[float] = []
    for seed in range(given.rounds):
        every = given.every
        run = first_run(study, seed, given.passes, max(TASKS, 2 * every), every)
        with tempfile.TemporaryDirectory() as parent:
            whole, after = ours(run, Path(parent))
        # Of seldom looks the second half of the turn has exactly one, at its end.
        counted = slice(every - 1, None)
        times["ours"] += together(whole[counted], every)
        between += together(after[counted], every)
        times["bare"] += together(bare(run, given.fused)[counted], every)
    quartiles = {name: statistics.quantiles(found, n=4) for name, found in times.items()}
    for name, (low, middle, high) in quartiles.items():
        print(f"{study:20} {name}: {middle:7.3f} s a task (quartiles {low:.3f}, {high:.3f})")
    ratio = quartiles["ours"][1] / quartiles["bare"][1]
    print(
        f"{study:20} {statistics.median(between):.3f} s of ours after training: instruments, row, checkpoint"
    )
    print(f"{study:20} ratio {ratio:.3f}, at most {LIMIT}: {'yes' if ratio <= LIMIT else 'NO'}", flush=True)


def together(seconds: list[float], every: int) -> list[float]:
    """The times as they are, or the mean of those with one look of the instruments among them."""
    return seconds if every == 1 else [statistics.mean(seconds)]


def workers(study: str, tasks: int) -> None:
    """Print how many times faster two workers do eight runs than one, and where the processor's time went."""
    start = _children()
    subprocess.run([sys.executable, "-c", "from isoplast.study import worker"], check=True)
    print(f"{study:20} a worker's imports: {_children() - start:.2f} s of processor")
    others = os.getloadavg()[0]
    if others > 0.3:
        print(f"{study:20} others are at work (load {others:.1f}): the clock says nothing about us")
    walls, shares = [], []
    for jobs in (1, 2):
        runs = [first_run(study, seed, tasks=tasks) for seed in range(8)]
        with tempfile.TemporaryDirectory() as out:
            clock, used, own = time.perf_counter(), _children(), time.process_time()
            outcomes = run_study(Study("workers", runs), out, jobs=jobs)
            walls.append(time.perf_counter() - clock)
            shares.append(_children() - used)
            own = time.process_time() - own
        assert not any(outcome.failure for outcome in outcomes)
        print(
            f"{study:20} {jobs} at a time: {walls[-1]:.1f} s by the clock; processor: workers "
            f"{shares[-1]:.1f} s ({shares[-1] / walls[-1]:.2f} of the clock), executor {own:.1f} s"
        )
    ratio = walls[0] / walls[1]
    print(f"{study:20} two workers need {shares[1] / shares[0]:.2f} of one's processor time")
    print(f"{study:20} two workers {ratio:.2f} x, at least {WORKERS_LIMIT}: {ratio >= WORKERS_LIMIT}")


def _children() -> float:
    """The processor's time of all processes that we started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--studies", nargs="*", default=["random_labels_cifar", "demo"])
    parser.add_argument("--passes", type=int)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--workers", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for study in given.studies:
        compare(study, given)
    if given.workers:
        workers("demo", tasks=24)


if __name__ == "__main__":
    main()
