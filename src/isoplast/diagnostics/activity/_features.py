"""Features in a stream: what is remembered of them, and the ranks and duplicates found in it."""

from __future__ import annotations

import torch
from torch import Tensor

# Side of the largest Gram matrix (32 MB in float64, its eigenvalues take one to two seconds on a core), and
# the number of samples kept of a layer that is wider.
SIDE = 2048
# Rows turned into float64 at a time: 64 MB for a layer of 128 units.
_ROWS = 65536


class Features:
    r"""Second moments of a layer's features, shape (samples, units), seen batch by batch.

    Few samples are kept as they are; more of them than units are kept as sums and a Gram matrix in
    float64, whose eigenvalues give singular values to :math:`10^{-8} \sigma_{max}`. Of a layer with more
    than `SIDE` units a random part of that many samples is kept.

    Args:
        units: number of units.
        expected: number of samples to come, which decides which part of a wide layer's are kept.
    """

    def __init__(self, units: int, expected: int) -> None:
        self.units = units
        self.samples = 0
        self._share = min(1.0, SIDE / expected) if units > SIDE else 1.0
        self._generator = torch.Generator().manual_seed(0)
        self._rows: list[Tensor] = []
        self._gram: Tensor | None = None
        self._sum: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """Take in features of shape (samples, units)."""
        if self._share < 1.0:
            count = max(1, round(self._share * len(features)))
            kept = torch.randperm(len(features), generator=self._generator)[:count]
            features = features[kept.to(features.device)]
        for rows in torch.split(features, _ROWS):
            self.samples += len(rows)
            # A layer may go on to change its output in place.
            self._rows.append(rows.to(torch.float64, copy=True))
            if self._gram is not None or (self.samples > self.units and self._share == 1.0):
                self._condense()

    def _condense(self) -> None:
        rows = torch.cat(self._rows)
        self._rows = []
        gram, total = rows.mT @ rows, rows.sum(0)
        self._gram = gram if self._gram is None else self._gram.add_(gram)
        self._sum = total if self._sum is None else self._sum.add_(total)

    def singular_values(self) -> Tensor:
        """The singular values of the features, descending, at most min(samples, units) of them."""
        gram = self._gram
        if gram is None:
            rows = torch.cat(self._rows)
            gram = rows @ rows.mT if len(rows) <= self.units else rows.mT @ rows
        energies = torch.linalg.eigvalsh(gram).flip(0)
        # What rounding leaves of a zero eigenvalue is no feature.
        return torch.where(energies > 2.3e-16 * len(energies) * energies[0], energies, 0.0).sqrt()

    def duplicates(self, threshold: float, chunk: int = 1024) -> float:
        """The share of units whose correlation with an earlier unit exceeds the threshold in size.

        A constant unit is no duplicate: it is correlated with nothing.
        """
        found = 0
        scaled = self._standardised()
        for start in range(0, self.units, chunk):
            stop = min(start + chunk, self.units)
            block = scaled[:, start:stop].mT @ scaled[:, :stop] if self._gram is None else scaled[start:stop]
            earlier = block[:, :stop].abs().tril(start - 1)
            found += int((earlier > threshold).any(1).sum())
        return found / self.units

    def _standardised(self) -> Tensor:
        """The features centred and of unit length, (samples, units), or their correlations (units, units)."""
        if self._gram is None:
            rows = torch.cat(self._rows)
            energy = rows.square().sum(0)
            rows = rows - rows.mean(0)
            return rows * _inverse_root(rows.square().sum(0), energy)
        assert self._sum is not None
        energy = self._gram.diagonal()
        covariance = self._gram - torch.outer(self._sum, self._sum / self.samples)
        scale = _inverse_root(covariance.diagonal(), energy)
        return covariance * scale * scale[:, None]


def _inverse_root(variance: Tensor, energy: Tensor) -> Tensor:
    """1 / sqrt(variance), or 0 for a unit that is constant up to the rounding of its energy."""
    constant = variance <= 1e-10 * energy
    return torch.where(constant, 0.0, torch.where(constant, 1.0, variance).rsqrt())


def srank(values: Tensor, share: float = 0.99) -> int:
    r"""How many of the largest singular values make up a share of their sum.

    .. math:: \mathrm{srank} = \min \Bigl\{ k : \sum_{i \le k} \sigma_i \ge 0.99 \sum_i \sigma_i \Bigr\}

    Args:
        values: singular values, descending, shape (k,).
        share: in (0, 1].

    Returns:
        Between 1 and k; 0 if all values are zero. Not the stable rank, though some codes call it so.

    Example:
        >>> srank(torch.tensor([98.0, 1.5, 0.5])), srank(torch.zeros(3))
        (2, 0)

    Reference:
        Kumar et al., "Implicit under-parameterization inhibits data-efficient deep RL", arXiv:2010.14498.
    """
    total = values.sum()
    # Rounding in the sum must not cost a rank: k equal values have srank ceil(0.99 k).
    reached = int((values.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1
    return min(reached, len(values)) if total > 0 else 0
