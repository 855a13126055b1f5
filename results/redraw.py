"""The compact tables of this folder: made from the runs of a study, and drawn again.

    python results/redraw.py pack runs/control_demo     # writes results/control_demo.csv
    python results/redraw.py draw control_demo          # writes docs/figures/control_demo.svg
    python results/redraw.py instruments NAME           # writes docs/figures/NAME_instruments.svg
    python results/redraw.py compare NAME --last 10     # prints the last ten tasks' means, paired by seed
    python results/redraw.py draw minatar_small --single minatar_single_small  # games on one scale, by cycle
    python results/redraw.py trials runs/NAME-tuning    # writes results/NAME_trials.csv; runs/NAME of a sweep
    python results/redraw.py trials NAME                # prints the mean scores of all trials, and writes
                                                        # docs/figures/NAME_trials.svg

A table has a row for each run and task: the score, what agents returned, and of the singular values and the
units what the figures show.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from isoplast.report import instruments_chart, method_runs, score_chart, sweep_chart
from isoplast.statistics import last, method_table, normalised_scores
from isoplast.study import load_runs, load_study, metric

HERE = Path(__file__).parent
FIGURES = HERE.parent / "docs" / "figures"
COLUMNS = (
    *("run_id", "label", "seed", "task", "method_active", "primary", "score", "chance", "steps"),
    "environment",
    *("return", "online_return", "episode_length"),
    *(
        "plasticity",
        "plasticity_learned",
        "ntk_condition_number",
        "ntk_participation_rank",
        "jacobian_condition_number",
    ),
)

# Of the layers of a network: the name in a table, of what it is made, and how.
SUMMARIES: dict[str, tuple[str, Callable[[pl.Expr], pl.Expr]]] = {
    "largest_sigma": ("sigma_max", lambda layers: layers.list.max()),
    "smallest_sigma": ("sigma_min", lambda layers: layers.list.min()),
    "weight_rank": ("effective_rank", lambda layers: layers.list.mean()),
    "dead_units": ("dead", lambda layers: layers.list.mean()),
    "dormant_units": ("dormant", lambda layers: layers.list.mean()),
}


def pack(directory: Path) -> Path:
    """Write the table of a study's runs: of all, as a task that is not there counts as chance later."""
    refuse_unfinished(directory)
    frame = load_study(directory)
    labels = {run: one.label for one in method_runs(frame) for run in one.runs}  # distinct ones
    found = frame.with_columns(
        pl.col("run_id").replace_strict(labels, default=pl.col("label")).alias("label")
    )
    found = found.select(
        *(name for name in COLUMNS if name in frame.columns),
        *(make(pl.col(of)).alias(name) for name, (of, make) in SUMMARIES.items() if of in frame.columns),
    )
    target = HERE / f"{directory.name}.csv"
    found.write_csv(target, float_precision=4)
    return target


def refuse_unfinished(directory: Path) -> None:
    """A run that is done or has failed is a result; the others are none yet."""
    unfinished = load_runs(directory).filter(~pl.col("state").is_in(["done", "failed"]))
    if len(unfinished):
        raise SystemExit(f"{directory} has {len(unfinished)} unfinished runs: isoplast study does the rest")


def pack_trials(directory: Path) -> Path:
    """Write the scores of every trial of a tuning, or of every run of a study that sweeps, seed by seed."""
    swept = directory / "sweep" if (directory / "sweep").is_dir() else directory
    refuse_unfinished(swept)
    frame = load_study(swept).filter(pl.col("task") >= 0)
    strengths = [name for name in ("isometry", "adamo.isometry") if name in frame.columns]
    found = (
        frame.with_columns(pl.coalesce(strengths).alias("isometry"))
        .group_by("method", "lr", "isometry", "seed")
        .agg(
            pl.first("primary"),
            pl.len().alias("tasks"),
            pl.mean("score"),
            pl.last("score").alias("last_task"),
        )
        .sort("method", "lr", "isometry", "seed")
    )
    target = HERE / f"{directory.name.removesuffix('-tuning')}_trials.csv"
    found.write_csv(target, float_precision=6)
    return target


def show_trials(name: str) -> None:
    """Print the mean scores of trials over their seeds: a row for each strength, a column for each rate."""
    frame = pl.read_csv(HERE / f"{name}_trials.csv")
    rates = sorted(frame["lr"].unique())
    for column, what in (("score", "mean over tasks"), ("last_task", "last task")):
        print(f"\n| method, {what} | isometry | {' | '.join(f'lr {rate:g}' for rate in rates)} |")
        print(f"|{'---|' * (len(rates) + 2)}")
        for (method, strength), rows in frame.group_by("method", "isometry", maintain_order=True):
            means = {rate: rows.filter(pl.col("lr") == rate)[column] for rate in rates}
            cells = [f"{found.mean():.3f}" if len(found) else "" for found in means.values()]
            print(f"| {method} | {'' if strength is None else f'{strength:g}'} | {' | '.join(cells)} |")


def table(name: str) -> pl.DataFrame:
    """A table as the frame of a study, in which what is said of all layers is said of a single one."""
    frame = pl.read_csv(HERE / f"{name}.csv")
    known = {name: of for name, (of, _) in SUMMARIES.items() if name in frame.columns}
    return frame.with_columns(
        *(pl.concat_list(name).alias(of) for name, of in known.items()),
        *(pl.lit(["all"]).alias(kind) for kind in ("layers", "units")),
    ).drop(known)


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


def draw_instruments(name: str) -> Path:
    """Draw what the instruments read after each task, and print their means over the seeds at the last."""
    results = method_runs(table(name))
    read = {
        **{key: (lambda one, key=key: one.per_layer[key][:, -1, 0]) for key in results[0].per_layer},
        **{key: (lambda one, key=key: one.probes[key][:, -1]) for key in results[0].probes},
    }
    print(f"| method | {' | '.join(metric(key).label for key in read)} |\n|{'---|' * (len(read) + 1)}")
    for one in results:
        print(f"| {one.label} | {' | '.join(f'{find(one).mean():.3g}' for find in read.values())} |")
    target = FIGURES / f"{name}_instruments.svg"
    target.write_text(instruments_chart(results), encoding="utf-8")
    return target


def compare(name: str, tasks: int, baseline: str) -> None:
    """Print the mean of the last tasks, and its gain over one method, paired by seed."""
    frame = table(name).filter(pl.col("task") >= 0)
    found = method_table(
        frame,
        higher_is_better=metric(frame["primary"][0]).higher_is_better is not False,
        statistic=functools.partial(last, k=tasks),
        baseline=baseline,
    )
    print(f"| method | seeds | last {tasks} tasks | gain over {baseline} | effect size | p (Holm) |")
    print("|---|---|---|---|---|---|")
    for row in found.iter_rows(named=True):
        score = "{score:.3f} [{score_low:.3f}, {score_high:.3f}]".format(**row)
        gain = "{gain:.3f} [{gain_low:.3f}, {gain_high:.3f}] | {effect_size:.1f} | {p_adjusted:.2g}"
        told = gain.format(**row) if row["gain"] is not None else " | | "
        print(f"| {row['method']} | {row['seeds']} | {score} | {told} |")


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


def draw_trials(name: str) -> Path:
    """Draw the mean score of AdamO's trials against its strength, a line per rate, and the best of Adam."""
    trials = pl.read_csv(HERE / f"{name}_trials.csv").filter(pl.col("method").is_in(["adam", "adamo"]))
    best = trials.filter(pl.col("method") == "adam").group_by("lr").agg(pl.col("score").mean())
    rate = best.sort("score")["lr"][-1]
    frame = trials.filter((pl.col("method") == "adamo") | (pl.col("lr") == rate)).with_columns(
        pl.concat_str("method", "lr", "isometry", "seed", ignore_nulls=True, separator=" ").alias("run_id"),
        pl.when(pl.col("method") == "adam")
        .then(pl.lit(f"Adam, lr {rate:g}"))
        .otherwise(pl.lit("AdamO"))
        .alias("label"),
        pl.col("method").alias("method_active"),
        pl.lit(0).alias("task"),
    )
    target = FIGURES / f"{name}_trials.svg"
    target.write_text(sweep_chart(method_runs(frame.drop("tasks", "last_task"))), encoding="utf-8")
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
    parser.add_argument("what", choices=("pack", "draw", "instruments", "compare", "trials"))
    parser.add_argument("which", help="the directory of the runs, or the name of a table")
    parser.add_argument("--last", type=int, default=1, help="compare: how many tasks count")
    parser.add_argument(
        "--baseline", default="Adam", help="compare: the method that the others are compared with"
    )
    parser.add_argument("--single", help="draw: the table of the runs that train on one environment each")
    arguments = parser.parse_args()
    if arguments.what == "pack":
        print(pack(Path(arguments.which)))
    elif arguments.what == "trials":
        if Path(arguments.which).is_dir():
            print(pack_trials(Path(arguments.which)))
        else:
            show_trials(arguments.which)
            print(draw_trials(arguments.which))
    elif arguments.what == "instruments":
        print(draw_instruments(arguments.which))
    elif arguments.what == "compare":
        compare(arguments.which, arguments.last, arguments.baseline)
    elif arguments.single:
        print(draw_cycles(arguments.which, arguments.single))
    else:
        print(draw(arguments.which))


if __name__ == "__main__":
    main()
