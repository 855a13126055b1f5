"""Command lines, study files, directories of runs and data files, damaged by chance (fixed seeds) or intent.

Run as a script with a folder and a file, it gives each to the command line and writes what happened.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ESCAPE = "\x1b]0;owned\x07\x1b[2J\nnext"  # sets the title of a terminal, and clears it
LONG = "x" * 100_000
SMALL = ["data.samples=40", "stream.tasks=1", "learner.epochs=1", "net.width=4", "net.depth=1"]

STUDY = """\
name: small
data: {name: digits, samples: 40}
stream: {name: random-labels, tasks: 1}
net: {name: mlp, width: 4, depth: 1}
learner: {name: supervised, epochs: 1, batch_size: 20}
methods:
- adam
- {name: adamo, isometry: 1e-2, label: ours}
seeds: [0, 1]
lr: 1e-3
"""

VALUES = [
    "1e400", "-1e400", ".nan", "1e-320", "-1", "0", "1.5", "true", "null", "''", "[]", "{}", "[[1]]",
    "{a: 1}",
    "10000000000000000000000000000000000000000", "2001-99-99", "2001-02-30 25:61:61", "0x1F", "1:30", "010",
    '"\\u0000"', '"\\u001b[2J"', "'a\n\n  b'", "!!python/object/apply:os.system ['touch owned']",
    "!!binary '?'",
    "&a [*a]", "*nowhere", "a:os", "os:system", "antigravity:x", "../..", "/etc/passwd", LONG,
    "[" * 3000, "{a: " * 3000, "- " * 3000,
]  # fmt: skip

KEYS = [
    "data.samples", "data.name", "data", "stream", "stream.tasks", "net", "net.width", "net.depth", "lr",
    "seed", "method", "method.name", "method.isometry", "learner", "learner.epochs", "learner.batch_size",
    "switch", "switch.task", "label", "instruments", "device", "path", "nothing", "net.activation",
    "stream.data",
]  # fmt: skip


def lines(generator: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Command lines that are wrong, by what they are."""
    for number, words in enumerate(
        [
            ["nothing"],
            [ESCAPE],
            ["run", f"--{ESCAPE}"],
            ["run", f"--method={ESCAPE}"],
            ["run", "--method", LONG],
            ["run", f"{ESCAPE}=1"],
            ["run", "=1"],
            ["run", "a.b.c.d=1"],
            ["run", "lr"],
            ["run", "--seed", "a"],
            ["run", "--seed", "1" * 5000],
            ["run", "--lr", ESCAPE],
            ["run", "--threads", "1000000"],
            ["run", "--threads", "0"],
            ["run", "--device", ESCAPE],
            ["run", "--device", "cuda:99"],
            ["run", "--out", LONG],
            ["study", ESCAPE],
            ["study", LONG],
            ["study", "\x00"],
            ["study", "."],
            ["study", "demo", "seeds=[100000000000000000000000000000000000000000]", "--jobs", "0"],
            ["study", "demo", f"name={ESCAPE}"],
            ["study", "demo", "--jobs", "-1"],
            ["study", "demo", "--executor", ESCAPE],
            ["report", ESCAPE],
            ["report", "\x00"],
            ["report", LONG],
            ["report", "."],
            *([command, word] for command in ("ls", "show", "watch") for word in (ESCAPE, "\x00", LONG)),
            *(["rm", word, "--yes"] for word in (ESCAPE, "\x00", LONG, ".")),
            ["watch", "runs", "--every", "0"],
            ["rm", "runs", "--method", ESCAPE, "--yes"],
            ["study", "demo", "--dry-run", "--threads", "0"],
            ["tune", ESCAPE, "--dry-run"],
            ["methods", ESCAPE],
            ["methods", LONG],
            ["spectra", "--jobs", ESCAPE],
        ]
    ):
        yield f"line {number}", words
    for number in range(120):
        key, value = (str(generator.choice(of)) for of in (KEYS, VALUES))
        yield f"word {number}", ["run", *SMALL, f"{key}={value}", "--device", "nowhere"]


def study_files(generator: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Study files that are wrong, or (those of chance) may be right."""
    yield "empty", b""
    yield "nul", b"name: a\x00b\n"
    yield "latin 1", "name: größe\n".encode("latin-1")
    yield "utf 16", STUDY.encode("utf-16")
    yield "binary", bytes(range(256)) * 40
    yield "escape", f'name: "{ESCAPE}"\nmethods: [nothing]\n'.encode("unicode_escape")
    yield (
        "laughs",
        b"a0: &a0 x\n"
        + b"".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 30)}]\n".encode() for i in range(1, 9)),
    )
    yield (
        "merges",
        b"a0: &a0 {x: 1}\n"
        + b"".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 30)}]}}\n".encode() for i in range(1, 9)),
    )
    yield "many runs", (STUDY + "net.width: " + str(list(range(1, 3000))) + "\n").encode()
    for number, value in enumerate(VALUES):
        yield f"value {number}", STUDY.replace("lr: 1e-3", f"lr: {value}").encode()
        yield f"method {number}", STUDY.replace("- adam\n", f"- {value}\n").encode()
        yield f"seeds {number}", STUDY.replace("[0, 1]", value).encode()
    for number in range(60):
        yield f"damaged {number}", mutated(STUDY.encode(), generator)


def run_files(folder: Path, generator: np.random.Generator) -> Iterator[tuple[str, str, bytes]]:
    """Files of the directory of a run (name of the case, of the file, content): damaged, edited, newer."""
    status = json.loads((folder / "status.json").read_bytes())
    for key in status:
        for number, value in enumerate((None, "a", -1, [], {}, 1 << 70, ESCAPE, {"versions": 3}, True)):
            yield f"status {key} {number}", "status.json", json.dumps({**status, key: value}).encode()
        rest = {name: value for name, value in status.items() if name != key}
        yield f"status without {key}", "status.json", json.dumps(rest).encode()
    yield "status newer", "status.json", json.dumps({**status, "queue": "a", "state": "queued"}).encode()
    yield "status deep", "status.json", b"[" * 100_000
    spec = (folder / "spec.yaml").read_text()
    for number, line in enumerate(spec.splitlines()):
        name = line.partition(":")[0]
        for which in (0, 4, 9, 10, 13, 15, 20, 22):
            changed = spec.replace(line, f"{name}: {VALUES[which]}")
            yield f"spec {number} {which}", "spec.yaml", changed.encode()
        yield f"spec without {number}", "spec.yaml", spec.replace(line + "\n", "").encode()
    yield "spec newer", "spec.yaml", (spec + "future: {a: 1}\n").encode()
    for name in ("status.json", "spec.yaml", "metrics.jsonl", "checkpoint.pt"):
        content = (folder / name).read_bytes()
        for number in range(15):
            yield f"damaged {number} {name}", name, mutated(content, generator)
        yield f"empty {name}", name, b""


def data_files(generator: np.random.Generator) -> Iterator[tuple[str, str, bytes]]:
    """Files of data (name of the case, of the file, content)."""

    def array(inputs: Any) -> bytes:
        file = io.BytesIO()
        np.savez(file, inputs=inputs, targets=np.arange(10) % 2)
        return file.getvalue()

    sound = array(np.arange(60.0).reshape(10, 6))
    yield "objects", "own.npz", array(np.array([{}] * 10, dtype=object))
    yield "escape", "own.npz", sound.replace(b"inputs", b"\x1b[2Jts")
    lies = sound.replace(b"(10, 6)", b"(9999999999999, 6)"[:7])
    yield "shape", "own.npz", lies
    bomb = gzip.compress(bytes(64 << 20), 1)
    yield "bomb", "mnist/train-images-idx3-ubyte.gz", bomb
    yield "zeros", "mnist/train-images-idx3-ubyte.gz", gzip.compress(b"\x00\x00\x08\x03" + b"\xff" * 12)
    for number in range(30):
        yield f"damaged {number}", "own.npz", mutated(sound, generator)


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """With a few bytes changed, cut off, doubled or put in."""
    made = bytearray(content)
    for _ in range(int(generator.integers(1, 4))):
        place = int(generator.integers(max(1, len(made))))
        match int(generator.integers(5)):
            case 0 if made:
                made[place] ^= 1 << int(generator.integers(8))
            case 1:
                made[place : place + 1] = generator.bytes(1)
            case 2:
                del made[place : place + int(generator.integers(1, 40))]
            case 3:
                made[place:place] = made[place : place + int(generator.integers(1, 40))]
            case _:
                made[place : place + 4] = generator.bytes(4)
    return bytes(made)


FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.", "webbrowser.", "pickle.find")


class Recorder:
    """Calls the command line, and keeps what each call said and took."""

    def __init__(self) -> None:
        self.results: list[list[Any]] = []
        self.events: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name.startswith(FORBIDDEN):
            self.events.append(f"{name} {str(arguments)[:100]}")

    def call(self, case: str, words: list[str]) -> None:
        from isoplast.cli import main

        self.events.clear()
        out, err = io.StringIO(), io.StringIO()
        start = time.process_time()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status: Any = main(words)
        except BaseException as error:
            status = f"{type(error).__name__}: {str(error)[:200]}"
        seconds = time.process_time() - start
        found = [case, status, out.getvalue()[-2000:], err.getvalue()[-2000:], seconds, most_memory()]
        self.results.append([*found, list(self.events)])


def most_memory() -> int:
    """The most memory that this process has held, in kilobytes; getrusage counts its parent's in."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])


def main(folder: Path, out: Path) -> None:
    os.chdir(folder)
    os.environ["ISOPLAST_DATA"] = str(folder)
    os.environ["COLUMNS"] = "200"
    recorder = Recorder()
    recorder.call("sound run", ["run", *SMALL, "--out", "runs"])
    recorder.call("sound report", ["report", "runs"])
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30))
    before = most_memory()
    for case, words in lines(np.random.default_rng(1)):
        recorder.call(case, words)
    for case, content in study_files(np.random.default_rng(2)):
        Path("study.yaml").write_bytes(content)
        recorder.call(f"study {case}", ["study", "study.yaml", "--executor", "none"])
    (whole,) = (path for path in Path("runs").iterdir() if path.is_dir())
    for case, name, content in run_files(whole, np.random.default_rng(3)):
        shutil.rmtree("copy", ignore_errors=True)
        shutil.copytree("runs", "copy")
        (Path("copy") / whole.name / name).write_bytes(content)
        recorder.call(f"report {case}", ["report", f"copy/{whole.name}", "--out", "curve.svg"])
        recorder.call(f"show {case}", ["show", f"copy/{whole.name}"])
        recorder.call(f"watch {case}", ["watch", "copy", "--every", "0.1"])
        recorder.call(f"run {case}", ["run", *SMALL, "--out", "copy"])
    for case, name, content in data_files(np.random.default_rng(4)):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        data = "data=mnist" if "mnist" in name else "data.name=file data.path=own.npz"
        recorder.call(f"data {case}", ["run", *data.split(), "net.width=4", "stream.tasks=1", "--device=cpu"])
        path.unlink()
    out.write_text(json.dumps({"before": before, "results": recorder.results}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
