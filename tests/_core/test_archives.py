"""Packed files: what they hold, what they may claim, and what a flipped bit does."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from isoplast._core.archives import ZipArchive, check_zip, unpack_gzip
from isoplast._core.errors import IsoplastError

CONTENT = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
ZEROS_PACKED = 4 << 20  # bytes of deflate that unpack to a thousand times as much


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 256 << 20


def made(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def bomb(path: Path, how: int, gigabytes: int) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive, archive.open("a", "w", force_zip64=True) as member:
        for _ in range(gigabytes << 4):
            member.write(bytes(1 << 26))
    return path


def test_gzip_is_unpacked_up_to_the_limit() -> None:
    packed = gzip.compress(CONTENT)
    assert unpack_gzip(packed, len(CONTENT)) == CONTENT
    assert unpack_gzip(packed + gzip.compress(b"more"), len(CONTENT) + 4) == CONTENT + b"more"
    with pytest.raises(IsoplastError, match="unpacks to more than 4,999 bytes"):
        unpack_gzip(packed, len(CONTENT) - 1)


def test_a_gzip_file_of_gigabytes_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(64 << 20)) * 100
    with pytest.raises(IsoplastError, match="more than 1,000 bytes"):
        unpack_gzip(packed, 1000)


@pytest.mark.parametrize("keep", [0, 1, 5, 20, 100, -1, -8])
def test_a_truncated_gzip_file_is_refused(keep: int) -> None:
    with pytest.raises(IsoplastError, match="truncated or no gzip file"):
        unpack_gzip(gzip.compress(CONTENT)[:keep] or b"<html>", 10_000)


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_and_every_flipped_bit_is_seen(tmp_path: Path, how: int) -> None:
    path = made(tmp_path / "a.zip", {"one": CONTENT, "dir/two": b"", "three": b"3" * 1000}, how)
    with ZipArchive(path) as archive:
        assert archive.sizes == {"one": 5000, "dir/two": 0, "three": 1000}
        assert archive.read("one") == CONTENT
        assert archive.read("dir/two") == b""
    check_zip(path)
    whole = path.read_bytes()
    start = whole.index(b"one") + 3
    for place in np.random.default_rng(1).integers(start, start + 4000, 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(place % 8)
        path.write_bytes(damaged)
        with pytest.raises(IsoplastError, match="damaged"):
            check_zip(path)
        with ZipArchive(path) as archive, pytest.raises(IsoplastError, match="damaged"):
            archive.read("one")


def test_a_zip_file_of_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.zip", zipfile.ZIP_DEFLATED, 1)
    with pytest.raises(IsoplastError, match=r"its [\d,]+ bytes claim to hold 1,073,741,824"):
        ZipArchive(path)


def test_a_member_may_not_unpack_to_more_than_it_claims(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.zip", zipfile.ZIP_DEFLATED, 1)
    data = path.read_bytes()
    # The directory at the end says 1000 bytes instead.
    place = data.rindex(b"PK\x01\x02") + 24
    assert int.from_bytes(data[place : place + 4], "little") == 1 << 30
    path.write_bytes(data[:place] + (1000).to_bytes(4, "little") + data[place + 4 :])
    with ZipArchive(path) as archive, pytest.raises(IsoplastError, match="damaged"):
        archive.read("a")


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_kinds_of_packing_are_refused(tmp_path: Path, how: int) -> None:
    """Python unpacks a block of bzip2 whole: 45 bytes may be a megabyte."""
    path = made(tmp_path / "a.zip", {"a": bytes(1000)}, how)
    with pytest.raises(IsoplastError, match="packed in a way not read here"):
        ZipArchive(path)


def test_damaged_zip_files_are_refused_or_read_as_they_were(tmp_path: Path) -> None:
    path = made(tmp_path / "a.zip", {"one": CONTENT, "two": b"x" * 300}, zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    generator = np.random.default_rng(2)
    for turn in range(300):
        damaged = bytearray(whole)
        if turn % 3 == 0:
            del damaged[int(generator.integers(len(whole))) :]
        else:
            for place in generator.integers(0, len(whole), 1 + turn % 4):
                damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            with ZipArchive(path) as archive:
                found = {name: archive.read(name) for name in archive.sizes}
        except IsoplastError as error:
            assert str(error).isprintable()  # noqa: PT017
        else:
            assert set(found.values()) <= {CONTENT, b"x" * 300}


def test_no_zip_file_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for content in (b"", b"PK", b"PK\x05\x06" + bytes(18), io.BytesIO().getvalue(), b"<html>"):
        path.write_bytes(content)
        try:
            check_zip(path)
        except IsoplastError as error:
            assert "damaged" in str(error)  # noqa: PT017
        else:
            assert content == b"PK\x05\x06" + bytes(18)  # an empty archive
