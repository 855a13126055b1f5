"""Files that nobody should have: damaged by chance (fixed seeds), and made to harm who opens them.

Run as a script with a folder and a file, it opens every file of the folder and writes what happened.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

NAME = b"\x1b]0;owned\x07\x1b[2J\nweight"  # of a parameter: sets the title of a terminal, and clears it


# Pickles, written by hand: what pickle would never write.


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def whole(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def call(name: str, *arguments: bytes) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def several(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def storage(count: int, kind: str = "FloatStorage", key: str = "0") -> bytes:
    kind = f"ctorch\n{kind}\n"
    return several(text("storage"), kind.encode(), text(key), text("cpu"), whole(count)) + b"Q"


def tensor(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    sizes = [several(*map(whole, numbers)) for numbers in (size, stride)]
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", storage(count), whole(offset), *sizes, b"\x89", hooks)


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


GOOD = tensor(16, (4, 4), (4, 1))


def put(place: int) -> bytes:
    return b"r" + struct.pack("<I", place)


def get(place: int) -> bytes:
    return b"j" + struct.pack("<I", place)


def diamonds(levels: int, width: int) -> bytes:
    """Mappings of which each holds the one below in all its entries: 30^8 ways lead to the lowest."""
    made = b"}" + put(0)
    for level in range(1, levels):
        entries = b"".join(text(f"k{i}") + get(level - 1) for i in range(width))
        made += b"0}(" + entries + b"u" + put(level)
    return made


def towers(levels: int) -> bytes:
    """A tuple of twice the tuple below: its hash takes 2^levels steps."""
    return b")" + put(0) + b"".join(b"0" + get(i) + get(i) + b"\x86" + put(i + 1) for i in range(levels))


def circle() -> bytes:
    """Forty mappings, each of which holds them all."""
    made = b"".join(b"}" + put(i) + b"0" for i in range(40))
    entries = b"".join(text(f"k{i}") + get(i) for i in range(40))
    return made + b"".join(get(i) + b"(" + entries + b"u0" for i in range(40)) + get(0)


# Inside the archive of a sound checkpoint, whose storage 0 holds 16 numbers, in place of its pickle.
PICKLES: dict[str, bytes] = {
    "sound": mapping(w=GOOD),
    "storage of 5.5 GB": mapping(w=tensor(1_375_000_000, (37_000, 37_000), (37_000, 1))),
    "storage of 2^60": mapping(w=tensor(1 << 60, (4, 4), (4, 1))),
    "negative storage": mapping(w=tensor(-16, (4, 4), (4, 1))),
    "stride 0": mapping(w=tensor(16, (10**6, 10**6), (0, 0))),
    "stride 0 in one": mapping(w=tensor(16, (10**9, 4), (0, 1))),
    "beyond the storage": mapping(w=tensor(16, (4, 5), (4, 1))),
    "offset beyond": mapping(w=tensor(16, (4, 4), (4, 1), 1)),
    "offset of 2^70": mapping(w=tensor(16, (4, 4), (4, 1), 1 << 70)),
    "negative offset": mapping(w=tensor(16, (4, 4), (4, 1), -4)),
    "negative size": mapping(w=tensor(16, (-4, -4), (4, 1))),
    "negative stride": mapping(w=tensor(16, (4, 4), (-4, 1))),
    "size of 2^70": mapping(w=tensor(16, (1 << 70, 4), (0, 1))),
    "empty and wide": mapping(w=tensor(16, (0, 1 << 62), (1, 1)), v=GOOD),
    "many dimensions": mapping(w=tensor(16, (1,) * 3000, (1,) * 3000)),
    "size and stride differ": mapping(w=tensor(16, (4, 4), (1,))),
    "other storage": mapping(w=GOOD.replace(text("0"), text("../../version"))),
    "no storage": mapping(w=GOOD.replace(text("0"), text("1"))),
    "storage is text": mapping(w=call("torch._utils._rebuild_tensor_v2", text("a"), whole(0), b"))")),
    "meta": mapping(
        w=call(
            "torch._utils._rebuild_meta_tensor_no_storage",
            b"ctorch\nfloat32\n",
            b"(K\x04K\x04t",
            b"(K\x04K\x01t\x89",
        )
    ),
    "meta of 2^62": mapping(
        w=call(
            "torch._utils._rebuild_meta_tensor_no_storage",
            *(b"ctorch\nfloat32\n", several(whole(1 << 62), whole(1 << 62)), b"(K\x01K\x01t\x89"),
        )
    ),
    "diamonds": diamonds(9, 30),
    "diamonds with weights": mapping(a=diamonds(9, 30), w=GOOD),
    "circle": circle(),
    "itself": b"}" + put(0) + b"(" + text("a") + get(0) + b"u",
    "list of itself": b"]" + put(0) + get(0) + b"a",
    "towers as keys": b"}" + towers(60) + b"Ns",
    **{
        f"towers in {name}": make(towers(60))
        for name, make in {
            "a layout": lambda tower: call("torch.serialization._get_layout", tower),
            "a device": lambda tower: call("torch.device", tower),
            "a size": lambda tower: call("torch.Size", tower),
            "sizes": lambda tower: mapping(
                w=call("torch._utils._rebuild_tensor_v2", storage(16), tower, tower, tower, b"\x89", b"N")
            ),
            "a meta size": lambda tower: call(
                "torch._utils._rebuild_meta_tensor_no_storage", b"ctorch\nfloat32\n", tower, tower, b"\x89"
            ),
            "a number": lambda tower: call("builtins.complex", tower),
            "bytes": lambda tower: call("_codecs.encode", tower, tower),
            "a bytearray": lambda tower: call("builtins.bytearray", tower),
            "a parameter": lambda tower: call("torch._utils._rebuild_parameter", tower, b"\x89", b"N"),
            "a sparse tensor": lambda tower: call(
                "torch._utils._rebuild_sparse_tensor",
                call("torch.serialization._get_layout", text("torch.sparse_coo")),
                several(tower, tower, tower),
            ),
            "a quantiser": lambda tower: call(
                "torch._utils._rebuild_qtensor",
                *(
                    storage(16, "QInt8Storage"),
                    whole(0),
                    several(whole(4)),
                    several(whole(1)),
                    several(tower),
                ),
            ),
            "a storage": lambda tower: several(text("storage"), tower, tower, tower, tower) + b"Q",
            "the name of a storage": lambda tower: (
                several(text("storage"), b"ctorch\nFloatStorage\n", tower, text("cpu"), whole(16)) + b"Q"
            ),
            "a name": lambda tower: tower + tower + b"\x93",
            "a call": lambda tower: tower + tower + b"R",
            "a subclass": lambda tower: call(
                "torch._tensor._rebuild_from_type_v2", tower, tower, tower, tower
            ),
            "a state": lambda tower: call("collections.OrderedDict") + tower + b"b",
            "an ordered dictionary": lambda tower: call("collections.OrderedDict", b"](" + tower + b"e"),
            "values": lambda tower: mapping(a=tower, w=GOOD),
        }.items()
    },
    "towers in a set": call("builtins.set", b"](" + towers(60) + b"e"),
    "towers in new sets": b"\x8f(" + towers(60) + b"\x90",
    "towers in an ordered dictionary": call("collections.OrderedDict", b"](" + towers(60) + b"N\x86e"),
    "towers counted": call("collections.Counter", b"}" + towers(60) + b"Ns"),
    "deep tuple as key": b"}" + b")" + b"\x85" * 200_000 + b"Ns",
    "deep lists": b"]" * 200_000 + b"a" * 199_999,
    "deep mappings": b"}" + (text("a") + b"}") * 100_000 + b"s" * 100_000,
    "deep marks": b"(" * 200_000,
    "three million values": b"(" + b"N" * 3_000_000 + b"l",
    "list as key": b"}]Ns",
    "entries of a list": b"]" + text("a") + b"Ns",
    "entries of a tensor": GOOD + b"K\x00K\x00s",
    "text called": text("a") + b")R",
    "memory of 2^32": b"}" + put(2**32 - 1) + get(2**32 - 1),
    "nothing remembered": get(5),
    "nothing on the stack": b"0000",
    "bytes of 2^60": b"\x8e" + struct.pack("<Q", 1 << 60),
    "text of 2^32": b"X\xff\xff\xff\xff",
    "frame of 2^62": b"\x95" + struct.pack("<Q", 1 << 62) + b"N",
    "5000 digits": b"I" + b"9" * 5000 + b"\n",
    "wide number": b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20),
    "bytearray of 10^11": call("builtins.bytearray", whole(10**11)),
    "tensor by its class": call("torch.Tensor", whole(10**6), whole(10**6)),
    "storage by its class": call("torch.FloatStorage", whole(10**11)),
    "parameter by its class": call("torch.nn.parameter.Parameter", whole(10**11)),
    "size of a size": call("torch.Size", b"](" + whole(1 << 70) + b"e"),
    "device": mapping(d=call("torch.device", text("cuda:999")), w=GOOD),
    "attributes": mapping(
        w=call(
            "torch._tensor._rebuild_from_type_v2",
            *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nTensor\n"),
            GOOD[GOOD.index(b"(") : -1],
            mapping(data=b"N", shape=b"N", __class__=b"N", float=b"N"),
        )
    ),
    "subclass": call("torch._tensor._rebuild_from_type_v2", b"cos\nsystem\n", b"cos\nsystem\n", b")", b"N"),
    "state of a mapping": call("collections.OrderedDict")
    + mapping(items=b"N", keys=b"N")
    + b"b"
    + text("w")
    + GOOD
    + b"s",
    "state of a tensor": GOOD + b"}b",
    "sparse and wide": mapping(
        w=call(
            "torch._utils._rebuild_sparse_tensor",
            call("torch.serialization._get_layout", text("torch.sparse_coo")),
            several(tensor(16, (2, 1), (1, 1)), tensor(16, (1,), (1,)), several(whole(10**9), whole(10**9))),
        )
    ),
    "sparse outside": mapping(
        w=call(
            "torch._utils._rebuild_sparse_tensor",
            call("torch.serialization._get_layout", text("torch.sparse_csr")),
            several(*[tensor(16, (4,), (1,))] * 3, several(whole(3), whole(10**12))),
        )
    ),
    "layout": call("torch.serialization._get_layout", text("os.system")),
    "name that writes": mapping(**{}) + text(NAME) + b"Ns",
    "name that writes, of a weight": mapping()
    + text(NAME)
    + tensor(16, (4, 4), (4, 1)).replace(b"K", b"K")
    + b"s",
    "global that writes": b"c\x1b]0;owned\x07\n\x1b[2J\n",
    "long global": b"c" + b"a" * 100_000 + b"\nb\n",
    "long name": mapping(**{"n" * 100_000: b"N"}),
    **{
        f"code {name}": call(name, text("touch owned"))
        for name in (
            *(
                "os.system",
                "posix.system",
                "subprocess.Popen",
                "builtins.exec",
                "builtins.eval",
                "__builtin__.eval",
            ),
            *(
                "builtins.getattr",
                "builtins.open",
                "runpy.run_path",
                "torch.load",
                "torch.hub.load",
                "pickle.loads",
            ),
            *(
                "torch.jit.load",
                "torch.serialization.load",
                "isoplast.cli.main",
                "numpy.load",
                "functools.partial",
            ),
            *("torch.FloatStorage.__init__", "torch.nn.Module", "webbrowser.open", "importlib.import_module"),
        )
    },
    "code by new class": b"\x8c\x02os\x8c\x06system\x93" + several(text("touch owned")) + b"R",
    "code by instance": b"(" + text("touch owned") + b"ios\nsystem\n",
    "code by object": b"(cos\nsystem\n" + text("touch owned") + b"o",
    "code by new": b"cos\nsystem\n" + several(text("touch owned")) + b"\x81",
    "code by extension": b"\x82\x01",
    "code in a storage": several(text("module"), call("os.system", text("touch owned"))) + b"Q",
}


def in_archive(content: bytes, how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("x/data/0", np.arange(16, dtype=np.float32).tobytes())
        archive.writestr("x/version", b"3\n")
    return file.getvalue()


def zeros() -> bytes:
    """A pickle of 1 GB of text in an archive of 1 MB."""
    file = io.BytesIO()
    archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
    with archive, archive.open("x/data.pkl", "w", force_zip64=True) as member:
        member.write(b"\x80\x02X" + struct.pack("<I", 1 << 30))
        for _ in range(16):
            member.write(bytes(1 << 26))
    return file.getvalue()


def old_format(content: bytes, keys: bytes = b"](X\x01\x00\x00\x000e", numbers: bytes | None = None) -> bytes:
    head = b"".join(
        pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    end = struct.pack("<q", 16) + np.arange(16, dtype=np.float32).tobytes() if numbers is None else numbers
    return head + b"\x80\x02" + content + b"." + b"\x80\x02" + keys + b"." + end


def safe_file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(kind: str = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> bytes:
    return json.dumps({"w": {"dtype": kind, "shape": shape, "data_offsets": offsets}}).encode()


def crafted() -> Iterator[tuple[str, bytes]]:
    """Files made to harm, by name."""
    for name, content in PICKLES.items():
        yield f"zip {name}.pt", in_archive(content)
        if len(content) < 50_000:
            yield f"old {name}.pt", old_format(content)
            yield f"pickle {name}.pt", b"\x80\x02" + content + b"."
    yield "zip of zeros.pt", zeros()
    for size in (0, -1, 15, 17, 2**62):
        yield f"old count {size}.pt", old_format(mapping(w=GOOD), numbers=struct.pack("<q", size) + bytes(64))
    yield "old no keys.pt", old_format(mapping(w=GOOD), keys=b"]")
    yield "old other keys.pt", old_format(mapping(w=GOOD), keys=b"](X\x01\x00\x00\x001e")
    yield "old keys are text.pt", old_format(mapping(w=GOOD), keys=text("0" * 1000))
    safe = {
        "long": safe_file(b"{}", length=2**63),
        "longer than it": safe_file(b"{}", length=3),
        "deep": safe_file(b"[" * 100_000),
        "deep mappings": safe_file(b'{"a":' * 100_000),
        "not json": safe_file(b"{'a'}"),
        "huge shape": safe_file(entry(shape=[10**6, 10**6]), bytes(16)),
        "overflow": safe_file(entry(shape=[2**63, 2**63]), bytes(16)),
        "negative": safe_file(entry(shape=[-2, -2]), bytes(16)),
        "float shape": safe_file(entry(shape=[2.5, 2]), bytes(16)),
        "1e400": safe_file(entry(shape=[2, 2]).replace(b"[2, 2]", b"[1e400, 2]"), bytes(16)),
        "offsets beyond": safe_file(entry(offsets=[0, 1 << 40]), bytes(16)),
        "offsets backward": safe_file(entry(offsets=[16, 0]), bytes(16)),
        "unknown type": safe_file(entry("F33"), bytes(16)),
        "small type": safe_file(entry("F4", [2, 16]), bytes(16)),
        "vector": safe_file(entry(shape=[4]), bytes(16)),
        "name that writes": safe_file(
            json.dumps({NAME.decode(): {"dtype": "I8", "shape": [16], "data_offsets": [0, 16]}}).encode(),
            bytes(16),
        ),
    }
    for name, content in safe.items():
        yield f"safe {name}.safetensors", content
        yield f"safe {name}.bin", content


def damaged(count: int) -> Iterator[tuple[str, bytes]]:
    """Sound files with a few bytes changed, cut off, doubled or put in."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = torch.optim.Adam(net.parameters())
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    files = {}
    for suffix, zipped in ((".pt", True), (".ckpt", False)):
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        files[suffix] = file.getvalue()
    files[".safetensors"] = save(dict(net.state_dict()), {"format": "pt"})
    arrays = io.BytesIO()
    np.savez_compressed(arrays, inputs=np.arange(60.0).reshape(10, 6), targets=np.arange(10))
    files[".npz"] = arrays.getvalue()
    array = io.BytesIO()
    np.save(array, np.arange(60.0).reshape(10, 6))
    files[".npy"] = array.getvalue()
    generator = np.random.default_rng(0)
    pickled = zipfile.ZipFile(io.BytesIO(files[".pt"])).read("archive/data.pkl")
    for number in range(count):
        for suffix, content in files.items():
            yield f"damaged {number}{suffix}", mutated(content, generator)
        # Behind a right checksum: the pickle itself is reached.
        members = zipfile.ZipFile(io.BytesIO(files[".pt"]))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in members.namelist():
                same = name != "archive/data.pkl"
                archive.writestr(name, members.read(name) if same else mutated(pickled, generator))
        yield f"damaged pickle {number}.pt", file.getvalue()


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    made = bytearray(content)
    for _ in range(int(generator.integers(1, 4))):
        place = int(generator.integers(len(made)))
        match int(generator.integers(5)):
            case 0:
                made[place] ^= 1 << int(generator.integers(8))
            case 1:
                made[place] = int(generator.integers(256))
            case 2:
                del made[place : place + int(generator.integers(1, 40))]
            case 3:
                made[place:place] = made[place : place + int(generator.integers(1, 40))]
            case _:
                made[place : place + 4] = generator.bytes(4)
        if not made:
            break
    return bytes(made)


FORBIDDEN = (
    "os.",
    "subprocess.",
    "socket.",
    "pickle.find_class",
    "shutil.",
    "webbrowser.",
    "ctypes.",
)


def most_memory() -> int:
    """The most memory that this process has held, in kilobytes; getrusage counts its parent's in."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])


def main(folder: Path, out: Path) -> None:
    from isoplast._core.arrays import safetensors
    from isoplast._core.errors import IsoplastError
    from isoplast.model import read_checkpoint, read_tensor

    safetensors()  # imports it: imports run code
    events: list[str] = []

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name.startswith(FORBIDDEN) or (name == "compile" and arguments[1] == "<string>"):
            events.append(name)

    sys.addaudithook(hook)
    os.chdir(folder)
    # A version that believes the files fails here, instead of filling the machine.
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30))
    results = []
    before = most_memory()
    for path in sorted(folder.iterdir()):
        for read in (read_checkpoint, read_tensor):
            if read is read_tensor and path.name.startswith(("old", "pickle")):
                continue  # by the same reader
            events.clear()
            start = time.process_time()
            message = None
            try:
                read(path)
            except IsoplastError as error:
                message = str(error)
            except BaseException as error:
                message = f"a traceback: {type(error).__name__}: {error}"
            seconds = time.process_time() - start
            more = most_memory() - before
            results.append((path.name, read.__name__, message, seconds, more, sorted(set(events))))
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
