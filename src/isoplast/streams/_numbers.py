"""Numbers from random bits, by operations that IEEE 754 rounds the same way on every machine."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Bits = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


def permutation(bits: Bits) -> Tensor:
    """A uniformly random order of 0 .. n - 1 from n words, int64 (n,)."""
    return torch.from_numpy(np.argsort(bits, kind="stable"))


def draw(bits: Bits, count: int) -> Tensor:
    """`count` different numbers out of 0 .. n - 1 from n words, ascending, int64 (count,)."""
    return permutation(bits)[:count].sort().values


def below(bits: Bits, bound: int) -> Whole:
    """Whole numbers in 0 .. bound - 1, biased by less than bound / 2^64."""
    found: Whole = (bits % np.uint64(bound)).astype(np.int64)
    return found


def uniform(bits: Bits) -> Floats:
    """Numbers in [0, 1), multiples of 2^-53."""
    found: Floats = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def signs(bits: Bits) -> Whole:
    """-1 or 1."""
    found: Whole = 1 - 2 * (bits >> np.uint64(63)).astype(np.int64)
    return found


def sine(angles: Floats) -> Floats:
    """The sine to 1e-9: that of the system's library may differ in its last bit from machine to machine.

    Folds the angle into [-pi/2, pi/2] and sums the Taylor series to the 15th power.
    """
    turn = 2 * math.pi
    angles = angles - np.rint(angles / turn) * turn
    angles = np.where(angles > math.pi / 2, math.pi - angles, angles)
    angles = np.where(angles < -math.pi / 2, -math.pi - angles, angles)
    square, total = angles * angles, np.zeros_like(angles)
    for power in range(15, 2, -2):
        total = square * (total + (-1) ** (power // 2) / math.factorial(power))
    return angles * (total + 1)
