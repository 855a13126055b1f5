"""The compact tables of this folder: made from the runs of a study, and drawn again.

    python results/redraw.py pack runs/control_demo     # writes results/control_demo.csv
    python results/redraw.py draw control_demo          # writes docs/figures/control_demo.svg
    python results/redraw.py draw minatar_small --single minatar_single_small  # games on one scale, by cycle
    python results/redraw.py trials runs/NAME-tuning    # writes results/NAME_trials.csv
    python results/redraw.py trials NAME                # prints the mean scores of all trials of a tuning

A table has a row for each run and task: the score, what else was scored, and of the singular values and the
units what the figures show.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from isoplast.report import method_runs, score_chart
from isoplast.statistics import normalised_scores
from isoplast.study import load_study

HERE = Path(__file__).parent
FIGURES = HERE.parent / "docs" / "figures"
COLUMNS = (
    *("run_id", "label", "seed", "task", "method_active", "primary", "score", "chance", "steps"),
    "environment",
    *("return", "online_return", "episode_length", "accuracy", "loss", "online_loss"),
    *("plasticity", "ntk_condition_number", "ntk_participation_rank", "jacobian_condition_number"),
)

SUMMARIES = {
    "largest_sigma": pl.col("sigma_max").list.max(),
    "smallest_sigma": pl.col("sigma_min").list.min(),
    "dead_units": pl.col("dead").list.mean(),
    "dormant_units": pl.col("dormant").list.mean(),
}


def pack(directory: Path) -> Path:
    """Write the table of a study's runs."""
    frame = load_study(directory)
    labels = {run: one.label for one in method_runs(frame) for run in one.runs}  # distinct ones
    found = frame.with_columns(
        pl.col("run_id").replace_strict(labels, default=pl.col("label")).alias("label")
    )
    found = found.select(
        *(name for name in COLUMNS if name in frame.columns),
        *(one.alias(name) for name, one in SUMMARIES.items() if one.meta.root_names()[0] in frame.columns),
    )
    target = HERE / f"{directory.name}.csv"
    found.write_csv(target, float_precision=4)
    return target


def pack_trials(directory: Path) -> Path:
    """Write the mean score of every trial of a tuning, seed by seed."""
    frame = load_study(directory / "sweep").filter(pl.col("task") >= 0)
    strengths = [name for name in ("isometry", "adamo.isometry") if name in frame.columns]
    found = (
        frame.with_columns(pl.coalesce(strengths).alias("isometry"))
        .group_by("method", "lr", "isometry", "seed")
        .agg(pl.len().alias("tasks"), pl.col("score").mean())
        .sort("method", "lr", "isometry", "seed")
    )
    target = HERE / f"{directory.name.removesuffix('-tuning')}_trials.csv"
    found.write_csv(target, float_precision=6)
    return target


def show_trials(name: str) -> None:
    """Print the mean score of every trial over its seeds: a row for each strength, a column for each rate."""
    frame = pl.read_csv(HERE / f"{name}_trials.csv")
    rates = sorted(frame["lr"].unique())
    print(f"| method | isometry | {' | '.join(f'lr {rate:g}' for rate in rates)} |")
    print(f"|{'---|' * (len(rates) + 2)}")
    for (method, strength), rows in frame.group_by("method", "isometry", maintain_order=True):
        means = {rate: rows.filter(pl.col("lr") == rate)["score"] for rate in rates}
        cells = [f"{found.mean():.3f}" if len(found) else "" for found in means.values()]
        print(f"| {method} | {'' if strength is None else f'{strength:g}'} | {' | '.join(cells)} |")


def table(name: str) -> pl.DataFrame:
    """A table, without what is no metric of a study."""
    return pl.read_csv(HERE / f"{name}.csv").drop(*SUMMARIES, strict=False)


def draw(name: str) -> Path:
    """Draw the score after each task, and print means with 95 % intervals over the seeds."""
    results = method_runs(table(name))
    print(f"| method | seeds | {results[0].metric.label}, mean over tasks | first task | last task |")
    print("|---|---|---|---|---|")
    for result in results:
        score = result.score[:, result.trained]
        columns = (score.mean(1), score[:, 0], score[:, -1])
        print(f"| {result.label} | {len(score)} | {' | '.join(map(interval, columns))} |")
    target = FIGURES / f"{name}.svg"
    target.write_text(score_chart(results), encoding="utf-8")
    return target


def draw_cycles(name: str, single: str) -> Path:
    """Draw the mean normalised return of each cycle of games, and print it by cycle and by game."""
    frame, alone = (table(one).filter(pl.col("task") >= 0) for one in (name, single))
    scaled = normalised_scores(frame, alone)
    games = scaled["environment"].n_unique()
    scaled = scaled.with_columns(pl.col("task") // games * games + games - 1)  # the last one of its cycle
    keys = ("run_id", "label", "seed", "method_active", "primary", "task")
    means = scaled.group_by(keys, maintain_order=True).agg(
        pl.col("score").mean(), pl.lit(0.0).alias("chance"), pl.col("steps").sum()
    )
    results = [
        dataclasses.replace(one, metric=dataclasses.replace(one.metric, label="normalised return"))
        for one in method_runs(means)
    ]
    cycles = range(1, results[0].score.shape[1] + 1)
    print(f"| method | seeds | {' | '.join(f'cycle {cycle}' for cycle in cycles)} | all |")
    print(f"|{'---|' * (len(cycles) + 3)}")
    for result in results:
        cells = [interval(column) for column in (*result.score.T, result.score.mean(1))]
        print(f"| {result.label} | {len(result.score)} | {' | '.join(cells)} |")
    order = [result.label for result in results]
    by_game = scaled.group_by("label", "environment").agg(pl.col("score").mean())
    names = sorted(by_game["environment"].unique())
    print(f"\n| method | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for label in order:
        found = {row[1]: row[2] for row in by_game.filter(pl.col("label") == label).iter_rows()}
        print(f"| {label} | {' | '.join(f'{found[game]:.2f}' for game in names)} |")
    target = FIGURES / f"{name}.svg"
    target.write_text(score_chart(results, "Return, 1 = training on the one game alone"), encoding="utf-8")
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
    parser.add_argument("what", choices=("pack", "draw", "trials"))
    parser.add_argument("which", help="the directory of the runs, or the name of a table")
    parser.add_argument("--single", help="draw: the table of the runs that train on one environment each")
    arguments = parser.parse_args()
    if arguments.what == "pack":
        print(pack(Path(arguments.which)))
    elif arguments.what == "trials":
        if Path(arguments.which).is_dir():
            print(pack_trials(Path(arguments.which)))
        else:
            show_trials(arguments.which)
    elif arguments.single:
        print(draw_cycles(arguments.which, arguments.single))
    else:
        print(draw(arguments.which))


if __name__ == "__main__":
    main()
