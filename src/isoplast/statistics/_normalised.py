"""Returns of different games on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoplast._core.errors import IsoplastError
from isoplast.statistics._checks import checked_frame

if TYPE_CHECKING:
    import polars as pl

_NEEDED = ("run_id", "task", "environment", "score", "chance")


def normalised_scores(frame: pl.DataFrame, single: pl.DataFrame) -> pl.DataFrame:
    r"""Scores as shares of the way from a random policy to training on the one environment alone.

    .. math:: \frac{s - r_g}{a_g - r_g}

    r_g is the mean of all returns of random actions in environment g that both frames hold, a_g the mean
    score after the last task of the runs that trained on g alone. 1 is as good as those; below 0 is worse
    than random actions.

    Args:
        frame: of a study of several environments, as `isoplast.study.load_study` returns it.
        single: of a study whose runs each stay in one environment; all environments of `frame` are there.

    Returns:
        The frame with these scores, and with `chance` 0.

    Raises:
        IsoplastError: a column or an environment is missing, a run of `single` has several environments, or
            training on one alone is no better than random actions.

    Example:
        >>> import polars as pl
        >>> columns = {"run_id": ["a"], "task": [0], "environment": ["breakout"], "chance": [1.0]}
        >>> frame, single = (pl.DataFrame({**columns, "score": [value]}) for value in (4.0, 7.0))
        >>> normalised_scores(frame, single)["score"].to_list()
        [0.5]

    Reference:
        The human-normalised score of Mnih et al., Nature 518 (2015), with training on one game as the human.
    """
    import polars as pl

    for name, one in (("frame", frame), ("single", single)):
        checked_frame(name, one, _NEEDED)
    several = (
        single.group_by("run_id").agg(pl.col("environment").n_unique()).filter(pl.col("environment") > 1)
    )
    if len(several):
        raise IsoplastError(
            f"run {several['run_id'].sort()[0]!r} of single has several environments: give runs of one each"
        )
    last = single.filter(pl.col("task") >= 0).sort("task").group_by("run_id").last()
    alone = last.group_by("environment").agg(pl.col("score").mean().alias("alone"))
    both = pl.concat(
        [one.select("environment", pl.col("chance").cast(pl.Float64)) for one in (frame, single)]
    )
    random = both.group_by("environment").agg(pl.col("chance").mean().alias("random"))
    scale = frame.select(pl.col("environment").unique()).join(random, on="environment")
    for game, guess, trained in scale.join(alone, on="environment", how="left").sort("environment").rows():
        if trained is None:
            raise IsoplastError(f"no run of single trained on {game!r}: add one")
        if not trained > guess:
            raise IsoplastError(
                f"training on {game!r} alone scores {trained:.4g}, random actions {guess:.4g}: train longer"
            )
    ends = frame.select("environment").join(
        random.join(alone, on="environment"), on="environment", how="left", maintain_order="left"
    )
    share = (frame["score"] - ends["random"]) / (ends["alone"] - ends["random"])
    return frame.with_columns(share.alias("score"), pl.lit(0.0).alias("chance"))
