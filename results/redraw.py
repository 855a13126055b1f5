"""The compact tables of this folder: made from the runs of a study, and drawn again.

    python results/redraw.py pack runs/control_demo     # writes results/control_demo.csv
    python results/redraw.py draw control_demo          # writes docs/figures/control_demo.svg

A table has a row for each run and task: the score, what else was scored, and of the singular values and the
units what the figures show.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from isoplast.report import method_runs, score_chart
from isoplast.study import load_study

HERE = Path(__file__).parent
FIGURES = HERE.parent / "docs" / "figures"
COLUMNS = (
    *("run_id", "label", "seed", "task", "method_active", "primary", "score", "chance", "steps"),
    "environment",
    *("return", "online_return", "episode_length", "accuracy", "loss", "online_loss"),
    *("plasticity", "ntk_condition_number", "ntk_participation_rank", "jacobian_condition_number"),
)

SUMMARIES = ("largest_sigma", "smallest_sigma", "dead_units", "dormant_units")


def pack(directory: Path) -> Path:
    """Write the table of a study's runs."""
    frame = load_study(directory)
    labels = {run: one.label for one in method_runs(frame) for run in one.runs}  # distinct ones
    found = frame.with_columns(
        pl.col("run_id").replace_strict(labels, default=pl.col("label")).alias("label")
    )
    found = found.select(
        *(name for name in COLUMNS if name in frame.columns),
        pl.col("sigma_max").list.max().alias(SUMMARIES[0]),
        pl.col("sigma_min").list.min().alias(SUMMARIES[1]),
        pl.col("dead").list.mean().alias(SUMMARIES[2]),
        pl.col("dormant").list.mean().alias(SUMMARIES[3]),
    )
    target = HERE / f"{directory.name}.csv"
    found.write_csv(target, float_precision=4)
    return target


def draw(name: str) -> Path:
    """Draw the score after each task, and print means with 95 % intervals over the seeds."""
    results = method_runs(pl.read_csv(HERE / f"{name}.csv").drop(SUMMARIES))
    print(f"| method | seeds | {results[0].metric.label}, mean over tasks | first task | last task |")
    print("|---|---|---|---|---|")
    for result in results:
        score = result.score[:, result.trained]
        columns = (score.mean(1), score[:, 0], score[:, -1])
        print(f"| {result.label} | {len(score)} | {' | '.join(map(interval, columns))} |")
    target = FIGURES / f"{name}.svg"
    target.write_text(score_chart(results), encoding="utf-8")
    return target


def interval(values: np.ndarray) -> str:
    """Mean and half the width of its 95 % t interval: accuracies to three digits, returns to none."""
    digits = 3 if abs(values).max() <= 10 else 0
    if len(values) == 1:
        return f"{values.mean():.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("pack", "draw"))
    parser.add_argument("which", help="the directory of the runs, or the name of a table")
    arguments = parser.parse_args()
    print(pack(Path(arguments.which)) if arguments.what == "pack" else draw(arguments.which))


if __name__ == "__main__":
    main()
