"""Packed files that are unpacked only as far as their size allows, and whose checksums are checked."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from isoplast._core.errors import IsoplastError

# Deflate packs a thousand bytes of one value into one: a file of 4 MB may unpack to 4 GB. Weights, images and
# tables of them shrink by less than 32, and whatever a small file unpacks to fits into memory.
_RATIO = 32
_ALWAYS = 256 << 20

_DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,  # an unknown compression
    RuntimeError,  # a password
    EOFError,
    OSError,
    OverflowError,
    UnicodeDecodeError,
    ValueError,
    struct.error,
    zlib.error,
)


def unpack_gzip(data: bytes, limit: int) -> bytes:
    """What a gzip file holds, if that is at most `limit` bytes.

    Raises:
        IsoplastError: it is truncated, damaged, no gzip file, or holds more; says what, not which file.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(limit + 1)
    except _DAMAGE as error:
        raise IsoplastError(f"truncated or no gzip file ({error})") from None
    if len(unpacked) > limit:
        raise IsoplastError(f"unpacks to more than {limit:,} bytes")
    return unpacked


class ZipArchive:
    """The members of a zip file. Nothing is read that is larger than the file explains.

    Args:
        source: the file, or the bytes of one.

    Attributes:
        sizes: the members' names and their sizes in bytes.

    Raises:
        IsoplastError: it is no zip file, or its members claim to be far larger than it is; says what, not
            which file.
    """

    def __init__(self, source: Path | bytes) -> None:
        self._file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._check(len(source) if isinstance(source, bytes) else source.stat().st_size)
        except BaseException as error:
            self._file.close()
            if isinstance(error, _DAMAGE) and not isinstance(error, IsoplastError):
                raise IsoplastError(f"truncated or damaged ({error})") from None
            raise
        self.sizes = {member.filename: member.file_size for member in self._zip.infolist()}
        self._unread = set(self.sizes)

    def _check(self, size: int) -> None:
        members = self._zip.infolist()
        total = sum(member.file_size for member in members)
        if total > max(_ALWAYS, _RATIO * size):
            raise IsoplastError(f"damaged (its {size:,} bytes claim to hold {total:,})")
        # An archive inside an archive is found by its own end where the outer one has lost its own.
        if min((member.header_offset for member in members), default=0):
            raise IsoplastError("truncated or damaged (its beginning belongs to another archive)")
        for member in members:
            # Python unpacks a block of any other kind whole, whatever its size.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise IsoplastError(f"packed in a way not read here (member {member.filename})")

    def __enter__(self) -> ZipArchive:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        """A member, its checksum checked.

        Raises:
            IsoplastError: it is damaged.
        """
        content = b"".join(self._blocks(name, self.sizes[name]))
        self._unread.discard(name)
        return content

    def verify(self) -> None:
        """Compare every member that was not read yet with its checksum.

        Raises:
            IsoplastError: one of them differs.
        """
        for name in sorted(self._unread):
            for _ in self._blocks(name, 1 << 20):
                pass

    def _blocks(self, name: str, size: int) -> Iterator[bytes]:
        count = 0
        try:
            with self._zip.open(name) as member:
                while block := member.read(max(size, 1)):  # its last call compares the checksum
                    count += len(block)
                    yield block
        except _DAMAGE as error:
            raise IsoplastError(f"truncated or damaged ({error})") from None
        if count != self.sizes[name]:
            raise IsoplastError(f"truncated or damaged (its member {name} is cut short)")


def check_zip(path: Path) -> None:
    """Compare every member of a zip file with its checksum.

    torch.load does not: one flipped bit of a weight is read as another number.

    Raises:
        IsoplastError: one of them differs; says what, not which file.
    """
    with ZipArchive(path) as archive:
        archive.verify()
