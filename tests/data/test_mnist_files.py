"""MNIST's reader on small files in the official layout, and on every way in which they can be damaged."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isoplast._core.errors import IsoplastError
from isoplast.data import _mnist, load_data
from isoplast.data._editions import Edition
from isoplast.data._files import KnownFile

IMAGES = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
LABELS = np.array([3, 1, 4, 1, 5, 9], dtype=np.uint8)


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    header = struct.pack(">I", 0x800 | array.ndim if magic is None else magic)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def known(name: str, content: bytes) -> KnownFile:
    return KnownFile(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def official(images: bytes, labels: bytes) -> Edition:
    return Edition.of("MNIST", known(NAMES[0], images), known(NAMES[1], labels))


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, images: bytes, labels: bytes, packed: bool = True
) -> tuple[Path, Path]:
    """Writes the two train files and makes their hashes the known ones."""
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(_mnist, "MNIST", replace(_mnist.MNIST, official=official(images, labels)))
    monkeypatch.setattr(_mnist, "download", no_download)
    paths = tuple(folder / (f"{name}.gz" if packed else name) for name in NAMES)
    for path, content in zip(paths, (images, labels), strict=True):
        path.write_bytes(gzip.compress(content) if packed else content)
    return paths[0], paths[1]


def no_download(*args: object) -> None:
    raise AssertionError("a download began")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "raw", "MNIST", "mnist/raw", "."])
def test_reads_the_official_layout(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, folder: str
) -> None:
    install(monkeypatch, tmp_path / folder, idx(IMAGES), idx(LABELS), packed)
    data = load_data("mnist", root=tmp_path)
    assert data.inputs.shape == (6, 1, 4, 5)
    assert data.targets.tolist() == LABELS.tolist()
    assert data.note == "MNIST"
    pixels = (data.inputs[:, 0].numpy() * 0.3081 + 0.1307) * 255
    assert np.array_equal(pixels.round(), IMAGES)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    "form", ["{dotted}{end}", "{name}{end}", "{name}/{name}", "{dotted}/{dotted}", "{dotted}/{name}"]
)
def test_reads_the_other_usual_names(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, form: str, end: str
) -> None:
    """With a dot, as many sites write them, or each in a folder of its own, as Kaggle unpacks them."""
    for path in install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS), packed=False):
        name = path.name
        place = tmp_path / form.format(name=name, dotted=name.replace("-idx", ".idx"), end=end)
        content = path.read_bytes()
        path.unlink()
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(gzip.compress(content) if place.suffix == ".gz" else content)
    data = load_data("mnist", root=tmp_path)
    assert data.targets.tolist() == LABELS.tolist()


def test_an_edition_that_a_manifest_declares(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, idx(255 - IMAGES), idx(LABELS))
    monkeypatch.setattr(_mnist, "MNIST", replace(_mnist.MNIST, official=official(idx(IMAGES), idx(LABELS))))
    refused(tmp_path, tmp_path / f"{NAMES[0]}.gz")
    said = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in zip(NAMES, (idx(255 - IMAGES), idx(LABELS)), strict=True)
    }
    manifest = tmp_path / "isoplast-data.json"
    entry = {"data": "mnist", "edition": "Inverted MNIST", "files": said}
    manifest.write_text(json.dumps({"editions": [entry]}))
    data = load_data("mnist", root=tmp_path)
    assert data.note == "Inverted MNIST"
    # Its images with labels of the same bytes as the official ones, but none declared: not mixed.
    del said[NAMES[1]]
    manifest.write_text(json.dumps({"editions": [entry]}))
    with pytest.raises(IsoplastError, match="declares no train-labels-idx1-ubyte"):
        load_data("mnist", root=tmp_path)


def test_a_gzip_file_of_gigabytes_is_not_unpacked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS))
    images.write_bytes(gzip.compress(bytes(1 << 25)))
    tracemalloc.start()
    assert "unpacks to more than 136 bytes" in refused(tmp_path, images)
    with images.open("wb") as file:
        file.truncate(1 << 42)  # not even read
    assert "wrong size, 4,398,046,511,104 bytes" in refused(tmp_path, images)
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()


@pytest.mark.parametrize("name", [NAMES[0], f"{NAMES[0]}.gz", "train-images.idx3-ubyte"])
def test_a_link_to_nowhere_does_not_start_a_download(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for path in install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS)):
        path.unlink()
    (tmp_path / name).symlink_to("gone")
    assert "a link to gone: cannot be read (No such file or directory)" in refused(tmp_path, tmp_path / name)


def test_more_labels_than_images(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels = install(monkeypatch, tmp_path, idx(IMAGES), idx(np.append(LABELS, np.uint8(1))))
    assert "7 labels for 6 images" in refused(tmp_path, labels)


def test_search_order(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """root, then ISOPLAST_DATA, then the cache: told by which file's damage is complained about."""
    root, shared = tmp_path / "root", tmp_path / "shared"
    for folder in (root, shared, cache):
        images, _ = install(monkeypatch, folder / "mnist", idx(IMAGES), idx(LABELS), packed=False)
        images.write_bytes(b"damaged")
    monkeypatch.setenv("ISOPLAST_DATA", str(shared))
    with pytest.raises(IsoplastError, match=str(root)):
        load_data("mnist", root=root)
    with pytest.raises(IsoplastError, match=str(shared)):
        load_data("mnist")
    monkeypatch.delenv("ISOPLAST_DATA")
    with pytest.raises(IsoplastError, match=str(cache)):
        load_data("mnist")


def test_a_named_folder_must_exist(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IsoplastError, match=r"root names .*nowhere, which is no folder"):
        load_data("mnist", root=tmp_path / "nowhere")
    monkeypatch.setenv("ISOPLAST_DATA", str(tmp_path / "gone"))
    with pytest.raises(IsoplastError, match=r"ISOPLAST_DATA names .*gone, which is no folder"):
        load_data("mnist")


def refused(tmp_path: Path, path: Path) -> str:
    """The one line with which loading fails; it must name the file and say what to do."""
    with pytest.raises(IsoplastError) as error:
        load_data("mnist", root=tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert "delete it and fetch it again" in message
    return message


@pytest.mark.parametrize("packed", [True, False])
def test_wrong_hash(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS), packed)
    changed = idx(IMAGES)[:-1] + b"\xff"
    images.write_bytes(gzip.compress(changed) if packed else changed)
    assert "wrong hash sha256:" in refused(tmp_path, images)


def test_truncated_plain_file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels = install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS), packed=False)
    labels.write_bytes(idx(LABELS)[:-3])
    assert "truncated, 11 of 14 bytes" in refused(tmp_path, labels)


@pytest.mark.parametrize("keep", [0, 5, 30])
def test_truncated_gzip_file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS))
    images.write_bytes(images.read_bytes()[:keep])
    assert "truncated" in refused(tmp_path, images)


def test_no_gzip_file_at_all(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a captive portal or an error page leaves behind."""
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS))
    images.write_bytes(b"<html>not here</html>")
    assert "no gzip file" in refused(tmp_path, images)


def test_damaged_deflate_stream(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS))
    packed = bytearray(images.read_bytes())
    packed[20] ^= 0xFF
    images.write_bytes(bytes(packed))
    refused(tmp_path, images)


def test_unreadable_file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES), idx(LABELS))
    images.unlink()
    images.mkdir()
    assert "cannot be read" in refused(tmp_path, images)


@pytest.mark.parametrize("magic", [0x801, 0x803 << 8, 0xD03])
def test_wrong_magic_number(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, magic: int) -> None:
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES, magic), idx(LABELS))
    assert f"magic number {magic:#010x}" in refused(tmp_path, images)


def test_header_and_length_disagree(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES) + b"\0", idx(LABELS))
    assert "137 bytes, its header (6, 4, 5) asks for 136" in refused(tmp_path, images)


def test_header_cut_off(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = install(monkeypatch, tmp_path, idx(IMAGES)[:9], idx(LABELS))
    assert "truncated inside its header" in refused(tmp_path, images)


def test_label_above_nine(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = LABELS.copy()
    labels[4] = 10
    _, path = install(monkeypatch, tmp_path, idx(IMAGES), idx(labels))
    assert "label 10 of image 4 is outside 0..9" in refused(tmp_path, path)


def test_a_damaged_file_is_not_replaced_by_the_next_place(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, cache / "mnist", idx(IMAGES), idx(LABELS))
    assert len(load_data("mnist").inputs) == 6
    images, _ = install(monkeypatch, tmp_path / "mnist", idx(IMAGES), idx(LABELS))
    images.write_bytes(gzip.compress(b"damaged"))
    refused(tmp_path, images)
