"""A data set in memory: inputs, and one target for each."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError

_WORDS = (torch.int32, torch.int64)  # of tokens: bytes are what images are stored as
_WHOLE = (torch.uint8, torch.int8, torch.int16, *_WORDS)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, in memory, never changed.

    Arrays of numpy are taken as well as tensors; both are checked and brought into the types below.

    Args:
        inputs: (n, ...) of at least two dimensions, n >= 1. Floating point numbers, as the network is to see
            them (standardised, as a rule), become float32; whole numbers of 32 or 64 bits, such as tokens,
            become int64.
        targets: (n, ...). Whole numbers >= 0 are classes and become int64; floating point numbers are those
            of a regression and become float32, (n,) becomes (n, 1).
        classes: the number of classes, above every target; by default the largest target plus 1. None of a
            regression.
        name: what to call it.
        note: which edition of it this is, e.g. "CIFAR-10 (JPEG subset)".
        fingerprint: a hash of its content; by default made from the bytes of both tensors.
        test: held-out samples of the same kind, on which nothing is ever trained.
        parts: names and numbers of rows of consecutive parts, such as the documents of a text.

    Raises:
        IsoplastError: the two differ in length, hold other types, numbers that are not finite, or targets
            outside 0 .. classes - 1; held-out samples of
            another kind; parts that are not all of it.

    Example:
        >>> Dataset(torch.zeros(4, 3), torch.tensor([0, 1, 2, 1])).classes
        3
        >>> Dataset(np.zeros((4, 3)), np.linspace(0, 1, 4)).targets.dtype
        torch.float32
    """

    inputs: Tensor = dataclasses.field(repr=False)
    targets: Tensor = dataclasses.field(repr=False)
    classes: int | None = None
    name: str = "arrays"
    note: str = ""
    fingerprint: str = dataclasses.field(default="", repr=False)
    test: Dataset | None = dataclasses.field(default=None, repr=False)
    parts: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        inputs = self._converted("inputs", self.inputs, _WORDS)
        targets = self._converted("targets", self.targets, _WHOLE)
        if targets.is_floating_point() and targets.ndim == 1:
            targets = targets[:, None]
        if inputs.ndim < 2 or targets.ndim < 1 or len(inputs) != len(targets) or not len(inputs):
            raise IsoplastError(
                f"data {self.name!r}: inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}: "
                "give (n, ...) and (n,), one target for each input, at least one of each"
            )
        known = {
            "inputs": inputs,
            "targets": targets,
            "classes": self._count_classes(targets),
            "fingerprint": self.fingerprint or _fingerprint(inputs, targets),
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)
        if self.parts and sum(count for _, count in self.parts) != len(targets):
            counted = sum(count for _, count in self.parts)
            raise IsoplastError(f"data {self.name!r}: its parts have {counted} of its {len(targets)} samples")
        if self.test is not None:
            self._check_test(self.test)

    def _check_test(self, test: Dataset) -> None:
        def kind(data: Dataset) -> tuple[object, ...]:
            rest = tuple(data.inputs.shape[1:]), tuple(data.targets.shape[1:])
            return *rest, data.inputs.dtype, data.targets.dtype

        if kind(test) != kind(self):
            raise IsoplastError(
                f"data {self.name!r}: held-out samples are {tuple(test.inputs.shape)} and "
                f"{tuple(test.targets.shape)}: make them of the same kind as the others"
            )
        if self.classes is not None and int(test.targets.max()) >= self.classes:
            raise IsoplastError(
                f"data {self.name!r}: held-out targets reach {int(test.targets.max())}: "
                f"classes are 0 to {self.classes - 1}"
            )

    def _converted(
        self, part: str, value: Tensor | npt.NDArray[np.generic], whole: tuple[torch.dtype, ...]
    ) -> Tensor:
        try:
            tensor = torch.as_tensor(value).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise IsoplastError(f"data {self.name!r}: {part} are no array of numbers: {error}") from None
        if tensor.is_floating_point():
            if not tensor.isfinite().all():
                raise IsoplastError(f"data {self.name!r}: {part} hold numbers that are not finite")
            return tensor.to("cpu", torch.float32)
        if tensor.dtype not in whole:
            raise IsoplastError(
                f"data {self.name!r}: {part} are {str(tensor.dtype).removeprefix('torch.')}: make them "
                "floating point numbers, standardised as the network is to see them"
            )
        return tensor.to("cpu", torch.int64)

    def _count_classes(self, targets: Tensor) -> int | None:
        if targets.is_floating_point():
            if self.classes is not None:
                raise IsoplastError(
                    f"classes={self.classes} of data {self.name!r}: targets that are floating point numbers "
                    "have none"
                )
            return None
        lowest, highest = int(targets.min()), int(targets.max())
        count = highest + 1 if self.classes is None else self.classes
        if lowest < 0 or highest >= count:
            raise IsoplastError(
                f"data {self.name!r}: targets reach from {lowest} to {highest}: classes are 0 to {count - 1}"
            )
        return count

    def take(self, samples: int) -> Dataset:
        """The fixed choice of so many samples, which takes no seed, and is nested in any larger one.

        Of classes it takes the first of each, equally many (one more of some where `samples` does not divide;
        a class with too few gives what it has), in their order; of parts the same. Of a regression it takes
        the first ones.

        Raises:
            IsoplastError: there are not so many.
        """
        chosen = choose(samples, len(self.targets), self._groups(), self.name, self.note)
        return self if len(chosen) == len(self.targets) else self._rows(chosen)

    def split(self, share: float) -> Dataset:
        """The same samples, with this share of them held out as `test`: the last ones of each class or part.

        Args:
            share: 0 < share < 1.

        Raises:
            IsoplastError: one of the two would be empty.

        Example:
            >>> data = Dataset(torch.zeros(100, 3), torch.arange(100) % 10).split(0.2)
            >>> len(data.targets), len(data.test.targets), data.test.targets.bincount().tolist()
            (80, 20, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
        """
        total = len(self.targets)
        kept = total - round(share * total)
        if not 0 < kept < total:
            raise IsoplastError(
                f"share {share} of the {total} samples of data {self.name!r}: give 0 < share < 1"
            )
        chosen = choose(kept, total, self._groups(), self.name, self.note)
        rest = np.setdiff1d(np.arange(total), chosen)
        return dataclasses.replace(self._rows(chosen), test=self._rows(rest))

    def _groups(self) -> npt.NDArray[np.generic] | None:
        """What a choice balances: (n,), or None."""
        if self.parts:
            return np.repeat(np.arange(len(self.parts)), [count for _, count in self.parts])
        return self.targets.numpy() if self.classes is not None and self.targets.ndim == 1 else None

    def _rows(self, chosen: npt.NDArray[np.int64]) -> Dataset:
        ends = np.cumsum([0, *(count for _, count in self.parts)])
        counts = np.diff(np.searchsorted(chosen, ends))
        parts = tuple((name, int(count)) for (name, _), count in zip(self.parts, counts, strict=True))
        rows = torch.from_numpy(chosen)
        return dataclasses.replace(
            self, inputs=self.inputs[rows], targets=self.targets[rows], parts=parts, fingerprint=""
        )


def choose(
    samples: int, total: int, labels: npt.NDArray[np.generic] | None, name: str, note: str
) -> npt.NDArray[np.int64]:
    """The indices that :meth:`Dataset.take` takes, ascending.

    Args:
        samples: how many.
        total: of how many.
        labels: their classes, (total,), or None.
        name, note: what to call them in the message.

    Raises:
        IsoplastError: there are not so many.
    """
    if not 1 <= samples <= total:
        known = f"{total} samples ({note})" if note else f"{total} samples"
        raise IsoplastError(f"samples={samples} of data {name!r}, which has {known}: ask for 1 to {total}")
    if labels is None:
        return np.arange(samples)
    rank = np.empty(total, dtype=np.int64)  # a sample's position among those of its class
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:samples])


def _fingerprint(inputs: Tensor, targets: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in (inputs, targets):
        found.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()
