"""The download path, on file:// addresses: urllib, the write aside, the check and the rename are real."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isoplast._core.errors import IsoplastError
from isoplast.data import _cifar, _download, _mnist, load_data
from isoplast.data._download import download
from isoplast.data._editions import Edition
from isoplast.data._files import KnownFile

CONTENT = {
    "train-images-idx3-ubyte": struct.pack(">4I", 0x803, 2, 1, 3) + bytes(range(6)),
    "train-labels-idx1-ubyte": struct.pack(">2I", 0x801, 2) + b"\x07\x02",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that plays the official MNIST site; nothing can be fetched from anywhere else."""
    folder = tmp_path / "site"
    folder.mkdir()
    files = []
    for name, content in CONTENT.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        files.append(KnownFile(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}"))
    official = Edition.of("MNIST", *files)
    site = dataclasses.replace(_mnist.MNIST, url=f"{folder.as_uri()}/", official=official)
    monkeypatch.setattr(_mnist, "MNIST", site)
    monkeypatch.setattr(_cifar, "URL", f"{folder.as_uri()}/")
    return folder


def kept(cache: Path) -> list[str]:
    """All files in the cache but the empty ones that processes lock while they download."""
    locks = [path for path in cache.rglob("*.lock") if not path.stat().st_size]
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path not in locks)


def test_downloads_once_and_says_so(cache: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = load_data("mnist")
    assert first.targets.tolist() == [7, 2]
    assert kept(cache) == [f"{name}.gz" for name in CONTENT]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("isoplast: downloading file://") == 2

    for path in site.iterdir():
        path.unlink()
    assert load_data("mnist").fingerprint == first.fingerprint
    assert capsys.readouterr().err == ""


def test_shows_progress_on_a_terminal(
    cache: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    load_data("mnist")
    assert "MB\n" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: gzip.compress(b"other")])
def test_a_wrong_download_is_refused_and_not_kept(
    cache: Path, site: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = site / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        IsoplastError, match=r"train-images-idx3-ubyte\.gz: truncated.*nothing of it was kept"
    ):
        load_data("mnist")
    assert kept(cache) == []


def test_a_wrong_cifar_archive_is_refused_and_not_kept(cache: Path, site: Path) -> None:
    (site / "cifar-10-binary.tar.gz").write_bytes(b"an error page")
    with pytest.raises(IsoplastError, match=r"cifar-10-binary\.tar\.gz: truncated, 13 of 170,052,171 bytes"):
        load_data("cifar10")
    assert kept(cache) == []


def test_no_connection_says_what_to_do(cache: Path, site: Path) -> None:
    (site / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(IsoplastError, match=r"cannot download file://.*ISOPLAST_DATA names$") as error:
        load_data("mnist")
    assert "\n" not in str(error.value)
    assert kept(cache) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_second_try_fails_as_the_first_did(cache: Path, site: Path, name: str) -> None:
    (site / "train-images-idx3-ubyte.gz").unlink()
    messages = []
    for _ in range(2):
        with pytest.raises(IsoplastError) as error:
            load_data(name)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("cannot download file://")


def test_an_interruption_leaves_nothing_behind(
    cache: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_download, "_show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_data("mnist")
    assert kept(cache) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, cache: Path, site: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(IsoplastError, match="cannot download"):
        load_data("mnist")


def test_many_at_once_all_succeed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One fetches it, the others wait and read what it fetched."""
    source, target = tmp_path / "source", tmp_path / "cache" / "target"
    source.write_bytes(bytes(3_000_000))
    results: list[bytes] = []

    def fetch() -> None:
        results.append(download(source.as_uri(), target, 3_000_000, lambda data: None))

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert target.read_bytes() == source.read_bytes()
    assert kept(target.parent) == ["target"]
    assert capsys.readouterr().err.count("isoplast: downloading") == 1


KILLED = """
import sys, time
from pathlib import Path
from isoplast.data import _download

def show(done, total):
    print("began", flush=True)
    time.sleep(600)

_download._show = show
_download.download(sys.argv[1], Path(sys.argv[2]), 3_000_000, lambda data: None)
"""


def test_what_a_killed_download_left_aside_is_removed(cache: Path, site: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", cache / "cifar-10-binary.tar.gz"
    source.write_bytes(bytes(3_000_000))
    words = [sys.executable, "-c", KILLED, source.as_uri(), str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.kill()
    (left,) = kept(target.parent)
    assert left.endswith(".part")
    other = ".cifar-10-binary.tar.gz2.1234.part"  # of another file, which may be downloading now
    (cache / other).touch()
    with pytest.raises(IsoplastError, match="cannot download"):  # and not: of no known edition
        load_data("cifar10")
    assert kept(cache) == [other]
    download(source.as_uri(), target, 3_000_000, lambda data: None)
    assert kept(cache) == [other, "cifar-10-binary.tar.gz"]


def test_an_answer_that_does_not_end_is_not_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "cache" / "target"
    source.write_bytes(bytes(5_000_000))
    with pytest.raises(IsoplastError, match="longer than 3,000,000 bytes; nothing of it was kept"):
        download(source.as_uri(), target, 3_000_000, lambda data: None)
    assert kept(target.parent) == []


def test_official_addresses() -> None:
    assert _mnist.MNIST.url.startswith("https://")
    assert (
        _cifar.URL + _cifar.CIFAR10.archive.name == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    )
