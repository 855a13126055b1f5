"""The checkpoints of a directory in the order of their training."""

from __future__ import annotations

import re
from pathlib import Path

from isoplast._core.errors import IsoplastError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar", ".zip")
# What trainers write beside the weights.
_BESIDE = re.compile(
    r"^(optimizer|scheduler|rng_state|training_args|scaler|random_states|replay_buffer)|optim_states|\.optimizer\."
)
# A number with a point is a metric or a time, one after "v" the version of a file.
_NUMBER = re.compile(r"\d+")
_DECIMAL = re.compile(r"\d+\.\d+(e[+-]?\d+)?", re.IGNORECASE)
_VERSION = re.compile(r"[-_.]v\d+$", re.IGNORECASE)
_STEP = re.compile(r"(?:global_?step|steps?|iter(?:ation)?s?|updates?|batch)[=_\-. ]*(\d+)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:epochs?|ep)[=_\-. ]*(\d+)", re.IGNORECASE)


def checkpoint_history(directory: Path) -> list[tuple[str, Path]]:
    """The checkpoints of a directory, the oldest first, with a name for each.

    Files count, or, where there are none, subdirectories that hold one network each. They are sorted by the
    training step in their names, else by the epoch, else by the first whole number that all names have and no
    two share, else by the time of writing. Metrics ("val_loss=0.31") and versions of a file ("-v1") are
    neither.

    Raises:
        IsoplastError: there is no checkpoint in it.
    """
    found = {_stem(path): path for path in files_of_weights(directory)}
    if not found:
        inner = {sub.name: files_of_weights(sub) for sub in sorted(directory.iterdir()) if sub.is_dir()}
        found = {name: sub[0] if len(sub) == 1 else sub[0].parent for name, sub in inner.items() if sub}
    if not found:
        raise IsoplastError(
            f"{directory} holds no checkpoint: none of its files ends in {', '.join(SUFFIXES)}"
        )
    times = {name: path.stat().st_mtime for name, path in found.items()}
    order = _order(list(found))
    return sorted(found.items(), key=lambda item: (order[item[0]], times[item[0]]))


def files_of_weights(directory: Path) -> list[Path]:
    """The files of a directory that may hold a network."""
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix in SUFFIXES and path.is_file() and not _BESIDE.search(path.name)
    )


def is_sharded(directory: Path) -> bool:
    """Whether a directory holds one network in several files, with an index that says so."""
    return any(directory.glob("*.index.json")) and not (directory / "index.json").exists()


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix == ".tar" else path.stem


def _order(names: list[str]) -> dict[str, tuple[int, ...]]:
    """What to sort by: steps with epochs, or one number of each name; nothing where there is none."""
    for words in (_STEP, _EPOCH):
        found = {name: words.findall(name) for name in names}
        if all(found.values()):
            return {name: (int(values[-1]),) for name, values in found.items()}
    numbers = {name: _NUMBER.findall(_DECIMAL.sub("", _VERSION.sub("", name))) for name in names}
    for place in range(min(map(len, numbers.values()))):
        column = [int(values[place]) for values in numbers.values()]
        if len(set(column)) == len(names):
            return dict(zip(names, ((value,) for value in column), strict=True))
    return dict.fromkeys(names, ())
