"""Data sets by name: which one, and its settings."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.registry import Registry
from isoplast._core.settings import Settings, check_fields, converted, settings_of
from isoplast.data._dataset import Dataset

_SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which data set, with its settings: what `data` of a study says. Its fields are the settings.

    A data set of one's own is a frozen dataclass derived from this one, with a `name` and a `read`. A study
    names it `package.module:Name`; an installed package offers it as an entry point of `isoplast.data`.

    Args:
        samples: how many samples of it, >= 1, as :meth:`Dataset.take` takes them; None is all of them.
        test_samples: the same for the held-out samples that come along; refused where none do.
        hold_out: share of the train split, in (0, 1), that takes the place of the test split, and is not
            trained on: to choose settings without a look at that.

    Example:
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Noise(DataSpec):
        ...     name = "noise"
        ...     width: int = 3
        ...     def read(self, split, root):
        ...         return Dataset(torch.randn(100, self.width), torch.arange(100) % 10, name=self.name)
        >>> len(Noise(samples=20).load().inputs)
        20
    """

    name: ClassVar[str] = ""

    samples: int | None = None
    test_samples: int | None = None
    hold_out: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, f"data {self.name or type(self).__name__}")
        for setting in ("samples", "test_samples"):
            value = getattr(self, setting)
            if value is not None and value < 1:
                raise IsoplastError(
                    f"{setting}={value} of data {self.name!r}: ask for at least 1, or None for all"
                )
        if self.hold_out is not None and not 0 < self.hold_out < 1:
            raise IsoplastError(f"hold_out={self.hold_out} of data {self.name!r}: give a share in (0, 1)")

    def settings(self) -> Settings:
        """All settings in canonical form; those that are None by default and None here are left out."""
        return settings_of(self)

    def read(self, split: str, root: Path | None) -> Dataset:
        """All samples of a split.

        Args:
            split: "train" or "test".
            root: a folder to look in before all others.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how its data is read")

    def load(self, split: str = "train", root: str | os.PathLike[str] | None = None) -> Dataset:
        """The data set, on the CPU.

        Args:
            split: "train" or "test".
            root: a folder to look in before all others.

        Raises:
            IsoplastError: an unknown split, more samples than there are, `test_samples`, a file that is
                damaged or cannot be had, or a package that is missing.
        """
        if split not in _SPLITS:
            raise unknown("split", split, _SPLITS)
        if self.test_samples is not None:
            raise IsoplastError(
                f"test_samples={self.test_samples} of data {self.name!r}: no held-out samples come along, "
                "leave it out (load_data brings them with test=True)"
            )
        folder = None if root is None else Path(root)
        data = self.read(split, folder) if self.hold_out is None else self._halves(folder)[split]
        return _taken(data, self.samples)

    def load_with_test(self, root: str | os.PathLike[str] | None = None) -> Dataset:
        """The train split with held-out samples as its `test`, see `test_samples` and `hold_out`.

        Raises:
            IsoplastError: as `load`, or there is no test split.
        """
        folder = None if root is None else Path(root)
        if self.hold_out is None:
            halves = {
                "test": dataclasses.replace(self, samples=self.test_samples).read("test", folder),
                "train": self.read("train", folder),
            }
        else:
            halves = self._halves(folder)
        test = _taken(halves["test"], self.test_samples)
        return dataclasses.replace(_taken(halves["train"], self.samples), test=test)

    def _halves(self, folder: Path | None) -> dict[str, Dataset]:
        """The train split without what is held out, and that."""
        assert self.hold_out is not None
        whole = dataclasses.replace(self, samples=None).read("train", folder).split(self.hold_out)
        assert whole.test is not None
        return {"train": dataclasses.replace(whole, test=None), "test": whole.test}


def _taken(data: Dataset, samples: int | None) -> Dataset:
    return data if samples is None else data.take(samples)


DATA: Registry[DataSpec] = Registry("data set", DataSpec, "isoplast.data")

_Kind = TypeVar("_Kind", bound=type[DataSpec])


def register_data(kind: _Kind) -> _Kind:
    """Class decorator: makes a data set known under its `name` in this process."""
    DATA.register(kind)
    return kind


def data_names(*, installed: bool = False) -> list[str]:
    """The names that `data_spec` and `load_data` know; with `installed` those of other packages too."""
    return DATA.names(installed=installed)


def data_reference(spec: DataSpec) -> str:
    """The name by which `data_spec` makes this kind of data set in any process.

    Raises:
        IsoplastError: no other process can import it.
    """
    return DATA.reference(type(spec))


def data_spec(name: str, **settings: Any) -> DataSpec:
    """The data set of that name with these settings; nothing is read yet.

    Args:
        name: one of `data_names()`, or `package.module:Name`.
        settings: what :class:`DataSpec` of that name takes; those left out keep their defaults.

    Raises:
        IsoplastError: an unknown name, or a setting that is unknown, wrong or missing.

    Example:
        >>> data_spec("cifar10", samples=1000).settings()
        (('samples', 1000),)
        >>> data_spec("file", path="mine.npz").path
        'mine.npz'
    """
    kind = DATA.find(name)
    values = converted(kind, f"data {name}", settings)
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.init
        and field.name not in values
        and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise IsoplastError(
            f"data {name} needs the setting {missing[0]!r}, as in {name} with {missing[0]}: ..."
        )
    return kind(**values)


def load_data(
    name: str,
    *,
    samples: int | None = None,
    split: str = "train",
    test: bool = False,
    root: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Dataset:
    r"""Loads a data set, standardised and checked to the bit.

    Every channel of the images is standardised by constants of the train split, the same for both splits and
    any `samples`:

    .. math:: x = (\mathrm{pixel} / \mathrm{peak} - \mu_c) / \sigma_c

    | name    | one sample   | train / test    | peak | mean                | std                 |
    |---------|--------------|-----------------|------|---------------------|---------------------|
    | digits  | 1 x 8 x 8    | 1437 / 360      | 16   | .3054               | .3755               |
    | mnist   | 1 x 28 x 28  | 60 000 / 10 000 | 255  | .1307               | .3081               |
    | fashion-mnist | the same | the same     | 255  | .2860               | .3530               |
    | cifar10 | 3 x 32 x 32  | 50 000 / 10 000 | 255  | .4914, .4822, .4465 | .2470, .2435, .2616 |
    | cifar100 | the same    | the same        | 255  | .5071, .4865, .4409 | .2673, .2564, .2762 |
    | text    | bytes        | 90 % / 10 %     |      | none                |                     |
    | file    | your own     | your own        |      | taken as it is      |                     |

    The digits come with scikit-learn. The files of the other images are looked for in `root`, in the folder
    that the environment variable `ISOPLAST_DATA` names, and in the cache (`ISOPLAST_CACHE`, else
    ~/.cache/isoplast); if none has them, they are downloaded into the cache. A file that is damaged, or whose
    content is neither the official one nor declared in a manifest (isoplast-data.json), is refused, wherever
    it lies. "file" is a .npz or .safetensors file of your own, "text" a folder of text files.

    Args:
        name: one of `data_names()`, or `package.module:Name` of a :class:`DataSpec`.
        samples: how many samples, as :meth:`Dataset.take` takes them; None is all of them.
        split: "train" or "test".
        test: whether the test split comes along as the `test` of the train split.
        root: a folder to look in first.
        settings: further settings of this data set, such as `path` of "file".

    Returns:
        The data set, on the CPU.

    Raises:
        IsoplastError: an unknown name or split, `samples` out of range, a file that is damaged or cannot be
            had, or scikit-learn missing for "digits".

    Example:
        >>> load_data("digits", samples=1280).inputs.shape
        torch.Size([1280, 1, 8, 8])
    """
    spec = data_spec(name, samples=samples, **settings)
    if not test:
        return spec.load(split, root)
    if split != "train":
        raise IsoplastError("test=True gives the train split with the test split beside it: leave split out")
    return spec.load_with_test(root)
