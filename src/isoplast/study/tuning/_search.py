"""Searching a space with Optuna's samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isoplast._core.errors import IsoplastError
from isoplast.study.tuning._space import Axis, Values, in_words


class Search:
    """A sampler for one method.

    Nothing of it is stored: asked again from the start, and told the same results in the same order, it gives
    the same settings, so that a search goes on after any interruption.

    Args:
        axes: what is searched.
        sampler: "random" or "tpe".
        seed: of the sampler.
    """

    def __init__(self, axes: Sequence[Axis], sampler: str, seed: int) -> None:
        optuna = _optuna()
        kinds = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
        self.axes = axes
        self._study = optuna.create_study(sampler=kinds[sampler](seed=seed), direction="maximize")
        self._open: list[Any] = []

    def ask(self) -> Values:
        """The next setting."""
        trial = self._study.ask()
        self._open.append(trial)
        found: Values = {}
        for axis in self.axes:
            if axis.values:
                found[axis.name] = axis.values[trial.suggest_int(axis.name, 0, len(axis.values) - 1)]
            else:
                suggest = trial.suggest_int if axis.whole else trial.suggest_float
                found[axis.name] = suggest(axis.name, axis.low, axis.high, log=axis.log)
        return found

    def tell(self, score: float) -> None:
        """The result of the oldest setting whose result is not known yet; more is better."""
        self._study.tell(self._open.pop(0), score)

    def different(self, wanted: int) -> list[Values]:
        """So many different settings of a sampler that learns nothing from results, or all there are."""
        found: dict[str, Values] = {}
        for _ in range(100 * wanted):  # random values of a list repeat
            values = self.ask()
            found.setdefault(in_words(values), values)
            self.tell(0.0)
            if len(found) == wanted:
                break
        return list(found.values())


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise IsoplastError('tuning needs Optuna: pip install "isoplast[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
