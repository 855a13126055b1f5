"""`isoplast inspect` and `isoplast repair`: what they print, how they exit, what they write."""

from __future__ import annotations

import json
import math
import pickle
import sys
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from isoplast.cli import main
from isoplast.study import Run, execute


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    for layer in model[::2]:
        nn.init.orthogonal_(layer.weight)
    return model


@torch.no_grad()
def collapsed_chain() -> nn.Sequential:
    """The second layer has all units behind the bias barrier: inputs show it, weights do not."""
    model = chain()
    model[2].bias[:] = -40.0
    return model


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    file = tmp_path / "inputs.npy"
    numpy.save(file, torch.randn(300, 12, generator=torch.Generator().manual_seed(1)).numpy())
    return file


def test_help_fits_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ("inspect", "repair"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= 80
        assert "None" not in said


def test_a_healthy_file_exits_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"epoch": 1, "model": chain().state_dict()}, tmp_path / "x.pt")
    assert main(["inspect", str(tmp_path / "x.pt")]) == 0
    said = capsys.readouterr().out
    assert "torch file, 6 tensors with 5,317 numbers at model" in said
    assert "assumed: ReLU between the linear layers" in said
    assert said.splitlines()[-1] == "verdict: healthy; dead units show with --inputs only"
    assert max(map(len, said.splitlines())) <= max(80, len(str(tmp_path / "x.pt")))


def test_inputs_show_what_is_critical_and_repair_mends_it(
    tmp_path: Path, batch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, new = tmp_path / "x.pt", tmp_path / "new.pt"
    torch.save({"state_dict": collapsed_chain().state_dict(), "step": 7}, file)
    before = file.read_bytes()
    assert main(["inspect", str(file), "--inputs", str(batch)]) == 1
    said = capsys.readouterr().out
    assert "the outputs are the same for all 300 inputs" in said
    assert "64 of 64 biases lie below" in said
    assert "verdict: critical" in said
    assert main(["repair", str(file), "-o", str(new), "--inputs", str(batch)]) == 0
    said = capsys.readouterr().out
    assert f"written: {new}" in said
    assert "Build the optimizer anew" in said
    assert max(map(len, said.splitlines()[:-1])) <= 80
    assert file.read_bytes() == before
    written = torch.load(new, weights_only=True)
    assert written["step"] == 7
    assert not written["state_dict"]["2.bias"].any()
    assert torch.equal(written["state_dict"]["0.weight"], collapsed_chain()[0].weight)
    assert main(["inspect", str(new), "--inputs", str(batch)]) == 0


def test_what_is_known_is_not_taken_away_unless_that_is_said(
    tmp_path: Path, batch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = chain()
    with torch.no_grad():
        model[2].weight.mul_(torch.linspace(0.1, 2, 64)[:, None])
    torch.save(model.state_dict(), tmp_path / "x.pt")
    words = ["repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "y.pt"), "--layers", "all"]
    assert main([*words, "--inputs", str(batch)]) == 2
    assert "what the network knows would be lost. Say forget=True (--forget)" in capsys.readouterr().err
    assert main(words) == 2
    assert "repair would change weights by up to" in capsys.readouterr().err
    assert not (tmp_path / "y.pt").exists()
    assert main([*words, "--forget"]) == 0
    assert (tmp_path / "y.pt").exists()


def test_a_healthy_file_is_not_repaired(
    tmp_path: Path, batch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(chain().state_dict(), tmp_path / "x.pt")
    words = ["repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "y.pt"), "--inputs", str(batch)]
    assert main(words) == 0
    assert "nothing to repair: no layer is critical" in capsys.readouterr().out
    assert not (tmp_path / "y.pt").exists()
    assert main([*words, "--layers", "all", "--forget"]) == 0
    assert (tmp_path / "y.pt").exists()


def test_json_is_strict_and_complete(tmp_path: Path, batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = collapsed_chain()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    torch.save(model.state_dict(), tmp_path / "x.pt")
    assert main(["inspect", str(tmp_path / "x.pt"), "--json"]) == 1

    def never(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=never)
    assert found["healthy"] is False
    assert found["findings"][0] == {
        "severity": "critical",
        "where": "0",
        "what": "the weight holds non-finite values",
        "advice": "restore a checkpoint from before and lower the learning rate",
        "rate": "",
        "wavers": False,
    }
    assert found["weights"]["0"]["largest"] == "nan"
    assert found["weights"]["2"]["largest"] == pytest.approx(1.0, abs=1e-5)


def test_a_directory_shows_its_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = chain()
    for step in (0, 50, 100):
        torch.save(model.state_dict(), tmp_path / f"step-{step}.pt")
        with torch.no_grad():
            model[2].weight.mul_(5)
    page = tmp_path / "page.html"
    assert main(["inspect", str(tmp_path), "--html", str(page)]) == 1
    said = capsys.readouterr().out
    assert "the largest singular values before the head are 13.0 times the initial ones" in " ".join(
        said.split()
    )
    assert "3 checkpoints, from step-0 to step-100, which is judged" in said
    assert "2: the largest singular value is 25, 25 times the initial one" in said
    assert [line.split()[0] for line in said.splitlines() if line.startswith("step-")] == [
        "step-0",
        "step-50",
        "step-100",
    ]
    assert "figure-history" in page.read_text(encoding="utf-8")
    assert main(["repair", str(tmp_path), "-o", str(tmp_path / "new.pt")]) == 2
    assert "holds several checkpoints: repair one of them" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"samples": 128, "tasks": 2, "epochs": 1, "net": {"depth": 2, "width": 16}}
    spec = Run.from_mapping({**small, "method": "adam", "seed": 3})
    return execute(spec, tmp_path_factory.mktemp("runs")).path


def test_a_run_brings_its_network_inputs_and_history(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target in (run, run / "checkpoint.pt"):
        assert main(["inspect", str(target)]) == 0
        said = capsys.readouterr().out
        assert "seed 3, after 2 of 2 tasks" in said
        assert "inputs: 128 of its last task" in said
        assert "activations.0" in said
        assert "untrained" in said
    new = tmp_path / "new.pt"
    assert main(["repair", str(run), "-o", str(new), "--layers", "all", "--forget"]) == 0
    old, written = (torch.load(path, weights_only=True) for path in (run / "checkpoint.pt", new))
    assert written.keys() == old.keys()
    assert written["learner"]["training"]["model"].keys() == old["learner"]["training"]["model"].keys()
    spread = torch.linalg.svdvals(written["learner"]["training"]["model"]["layers.1.weight"])
    assert torch.allclose(spread, torch.ones(16), atol=1e-5)
    assert not torch.allclose(
        torch.linalg.svdvals(old["learner"]["training"]["model"]["layers.1.weight"]), spread
    )


class Code:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("command", ["inspect", "repair"])
def test_bad_files_are_one_line_and_status_two(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(chain().state_dict(), tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    bad = {
        "cut.pt": whole[: len(whole) // 2],
        "code.pt": pickle.dumps({"model": Code(tmp_path / "mark")}, 2),
        "text.pt": b"hello",
        "cut.safetensors": b"\x10\0\0\0\0\0\0\0{",
    }
    for name, contents in bad.items():
        (tmp_path / name).write_bytes(contents)
    end = ["-o", str(tmp_path / "out.pt")] if command == "repair" else []
    for name in [*bad, "gone.pt"]:
        assert main([command, str(tmp_path / name), *end]) == 2
        complaint = capsys.readouterr().err
        assert complaint.startswith("isoplast: ")
        assert name in complaint
        assert complaint.count("\n") == 1
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out.pt").exists()


def test_inputs_that_do_not_fit_and_outputs_that_exist(
    tmp_path: Path, batch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.pt"
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2)).state_dict(), file)
    assert main(["inspect", str(file), "--inputs", str(batch)]) == 2
    assert "inputs need a network, and these are weights without one" in capsys.readouterr().err
    numpy.save(tmp_path / "wide.npy", numpy.zeros((4, 99), dtype=numpy.float32))
    torch.save(chain().state_dict(), file)
    assert main(["inspect", str(file), "--inputs", str(tmp_path / "wide.npy")]) == 2
    complaint = capsys.readouterr().err
    assert "do not fit the model" in complaint
    assert complaint.count("\n") == 1
    assert main(["repair", str(file), "-o", str(file), "--layers", "all", "--forget"]) == 2
    assert "exists: choose another name, nothing is overwritten" in capsys.readouterr().err


def test_safetensors_missing_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert main(["inspect", str(tmp_path / "x.safetensors")]) == 2
    assert (
        capsys.readouterr().err == 'isoplast: safetensors is not installed: pip install "isoplast[bench]"\n'
    )


@pytest.mark.slow
def test_the_collapsed_adam_run_is_critical(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's Adam run up to where it is at chance: its run directory shows dead units and stretched
    layers, its bare weights stretched layers and what they do with standard normal inputs."""
    spec = Run.from_mapping(
        {"samples": 1280, "tasks": 12, "epochs": 25, "method": "adam", "lr": 3e-3, "net": {"width": 128}}
    )
    path = execute(spec, tmp_path).path
    assert main(["inspect", str(path)]) == 1
    said = capsys.readouterr().out
    assert "of 128 units are dead (zero on every input)" in said
    assert "the largest singular value is" in said
    assert "verdict: critical. What to do stands beside each finding" in said
    new = tmp_path / "new.pt"
    assert main(["repair", str(path), "-o", str(new), "--forget"]) == 0
    bare = tmp_path / "bare.pt"
    torch.save(torch.load(path / "checkpoint.pt", weights_only=True)["learner"]["training"]["model"], bare)
    capsys.readouterr()
    main(["inspect", str(bare)])
    said = capsys.readouterr().out
    assert "on standard normal inputs" in said
    assert "layers.2: the largest singular value is" in said
    repaired = torch.load(new, weights_only=True)["learner"]["training"]["model"]
    assert float(torch.linalg.svdvals(repaired["layers.2.weight"])[0]) == pytest.approx(1.0, abs=1e-5)


def test_lost_numbers_are_critical_and_beyond_repair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = chain().state_dict()
    name = [name for name in state if name.endswith("bias")][1]
    state[name][0] = math.nan
    torch.save(state, tmp_path / "x.pt")
    assert main(["inspect", str(tmp_path / "x.pt")]) == 1
    said = capsys.readouterr().out
    assert f"{name}: it holds non-finite values" in said
    assert "Nothing repairs lost numbers: restore an earlier checkpoint." in said
    assert main(["repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "y.pt")]) == 2
    assert f"{name} holds a non-finite value" in capsys.readouterr().err


def test_what_cannot_be_read_or_written_is_not_taken_for_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "x.pt", tmp_path / "nowhere" / "page.html"
    torch.save(chain().state_dict(), file)
    assert main(["inspect", str(file), "--html", str(page)]) == 2
    assert f"{page} cannot be written: No such file or directory" in capsys.readouterr().err
    numpy.save(tmp_path / "inputs.npy", numpy.full((4, 12), numpy.nan, dtype=numpy.float32))
    assert main(["inspect", str(file), "--inputs", str(tmp_path / "inputs.npy")]) == 2
    assert "the inputs hold NaN or infinities" in capsys.readouterr().err


def test_a_compiled_network_is_repaired_under_its_own_names(tmp_path: Path) -> None:
    state = {f"_orig_mod.{name}": value for name, value in collapsed_chain().state_dict().items()}
    torch.save(state, tmp_path / "x.pt")
    assert (
        main(["repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "y.pt"), "--layers", "all", "--forget"])
        == 0
    )
    written = torch.load(tmp_path / "y.pt", weights_only=True)
    assert list(written) == list(state)
    spread = [torch.linalg.svdvals(value) for name, value in written.items() if name.endswith("weight")]
    assert all(torch.allclose(values, torch.ones_like(values), atol=1e-5) for values in spread)
