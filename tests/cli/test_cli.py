"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import isoplast
from isoplast import __version__
from isoplast.cli import main
from isoplast.study import find_study

TINY = ["--samples", "128", "--tasks", "2", "--epochs", "1", "--width", "16"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"isoplast {isoplast.__version__}\n"


COMMANDS = (
    "",
    "demo",
    "run",
    "study",
    "tune",
    "report",
    "ls",
    "show",
    "rm",
    "watch",
    "methods",
    "lens",
    "spectra",
)


@pytest.mark.parametrize("command", [name.split() for name in COMMANDS], ids=" ".join)
def test_help_fits_eighty_columns(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "None" not in said
    if not command:
        assert "--version" in said
    if command == ["run"]:
        words = " ".join(said.replace("│", " ").split())
        for names in (
            "random-labels",
            "cifar10, cifar100, digits",
            "cnn, gpt, mlp, octax-cnn",
            "`isoplast methods` lists them",
        ):
            assert names in words


def test_a_run_says_what_it_found_and_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "run",
        *TINY,
        "--out",
        str(tmp_path),
        "method.isometry=1e-1",
        "method.betas=[0.8, 0.99]",
        "--seed",
        "3",
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "4 matrices, 1.7 k of 1.75 k parameters under isometry, time constant 1 250 steps" in said
    assert "warning: 4 steps are fewer than the isometry time constant" in said
    assert re.search(r"task 1: accuracy 0\.\d{4}, loss \d\.\d{4}", said)
    last = said.splitlines()[-1]
    assert re.fullmatch(r"accuracy: first task 0\.\d{3}, worst 0\.\d{3}, last 0\.\d{3}; results in .*", last)
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [last]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run --lr nan", "lr is nan: the learning rate must be a finite number > 0"),
        ("run --lr -1", "lr is -1.0: the learning rate must be a finite number > 0"),
        ("run --epochs 0", "epochs of learner supervised is 0: it must be at least 1"),
        ("run --method admo", "unknown method 'admo': did you mean 'adamo'?"),
        ("run --stream labels", "unknown stream 'labels': "),
        ("run --data cifar", "unknown data set 'cifar': did you mean 'cifar10'?"),
        ("run --net mpl", "unknown network 'mpl': did you mean 'mlp'?"),
        ("run net.activation=rely", "unknown activation 'rely': did you mean 'relu'?"),
        ("run method.isometri=1", "unknown setting of method adamo 'isometri': did you mean 'isometry'?"),
        ("run isometry", "got 'isometry': write KEY=VALUE, such as lr=1e-3 or method.isometry=1e-2"),
        ("run method.isometry=nan", "isometry of method adamo is 'nan': it must be a finite number"),
        ("run method.isometry=1 method.isometry_time=2", "method adamo got isometry=1.0 and isometry_time="),
        ("run method.isometry=1 method.isometry=2", "got 'method.isometry=2', but method.isometry is given"),
        ("run --width 8 net.width=9", "got '--net', but net.width is given already: give it once"),
        ("run --lr 1 lr=2", "got '--lr', but lr is given already: give it once"),
        ("run method=adam method.name=adam", "got 'method.name=adam', but method.name is given already"),
        ("run hyper=1", "unknown setting of a run 'hyper'"),
        ("run lr=fast", "lr is 'fast': the learning rate must be a finite number > 0"),
        ("run lr=[", "lr, line 1: this is not YAML"),
        ("run --threads 0", "threads is 0: it must be a whole number >= 1"),
        ("run method.isometry_time=1e-320", "method adamo with lr 0.001: "),
        ("run --threads 1000000", "threads is 1000000: no process has more than 1024 of them"),
        ("run --samples 100000", "samples=100000 of data 'digits'"),
        ("run --device cuda:9", "device 'cuda:9' is not there"),
        ("study demo lr=0", "%STUDIES%/demo.yaml, overridden by lr=0: lr is 0: the learning rate must be"),
        ("study demo name=x y=2", "%STUDIES%/demo.yaml, overridden by y=2: unknown setting of a run 'y'"),
        ("study demo --executor clowd", "unknown executor 'clowd'"),
        ("study demmo", "unknown study 'demmo': did you mean 'demo'?"),
        ("study gone.yaml", "there is no file gone.yaml; ready-made studies: "),
        ("report gone", "gone holds no results: "),
    ],
)
def test_wrong_input_is_one_line_and_status_two(
    words: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    complaint = capsys.readouterr().err
    studies = str(find_study("demo").parent)
    assert complaint.startswith(f"isoplast: {message.replace('%STUDIES%', studies)}")
    assert complaint.count("\n") == 1


def test_a_loss_that_is_not_finite_is_one_line_and_status_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", *TINY, "--epochs", "9", "--lr", "1e30", "--method", "adam", "--out", str(tmp_path)]
    assert main(words) == 1
    complaint = capsys.readouterr().err
    assert re.fullmatch(r"isoplast: failed: the loss is \w+ at task 0, epoch \d, step \d+ .*\n", complaint)


def test_a_place_that_cannot_be_written_is_one_line_and_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", *TINY, "--out", str(tmp_path / "file")]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"isoplast: Not a directory: {tmp_path}/file/random-labels-digits-mlp-adamo")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("package", ["tyro", "rich", "yaml"])
def test_a_missing_extra_says_what_to_install(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; "
        "from isoplast.cli import main; sys.exit(main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f'isoplast: {package} is not installed: pip install "isoplast[bench]"\n'


def test_the_module_is_the_command_and_imports_nothing_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('somebody else's random.py was run')")
    command = [sys.executable, "-m", "isoplast", "methods", "adam"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("adam: Adam")


def test_the_version_does_not_wait_for_torch() -> None:
    code = "import sys; from isoplast.cli import main; main(['--version']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"isoplast {__version__}", "False"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_no_verdict() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "isoplast", "methods", "adam"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "isoplast: No space left on device: writing the output\n"


def test_a_fault_of_ours_is_no_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str]) -> int:
        raise KeyError("gone")

    monkeypatch.setattr("isoplast.cli._commands.run_command", fail)
    assert main(["demo"]) == 2
    complaint = capsys.readouterr().err
    assert "KeyError: 'gone'" in complaint
    assert complaint.endswith(
        "isoplast: this is a fault of isoplast, not of the input: please report the lines above\n"
    )


def test_ctrl_c_is_one_line_and_status_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("isoplast.cli._commands.run_command", interrupt)
    assert main(["demo"]) == 130
    assert (
        capsys.readouterr().err
        == "isoplast: interrupted: finished tasks are complete; the same command goes on\n"
    )


@pytest.mark.slow
def test_a_study_ends_with_a_table_a_report_and_the_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "{name: both, run: {samples: 128, tasks: 2, epochs: 9, net: {name: mlp, width: 16}},"
        " methods: [adamo, {method: adam, lr: 1e30, label: too fast}]}"
    )
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    assert main(["study", str(file)]) == 1
    said = capsys.readouterr().out
    assert "both: 2 of 2 runs to do, results in runs/both" in said
    assert re.search(r"│ AdamO +│ +1 │ +2 │", said)
    (sentence,) = re.findall(r"^AdamO [^│]*?\.$", said, re.M | re.S)  # what was seen, as at the report's head
    assert "2 tasks" in " ".join(sentence.split())
    assert (tmp_path / "runs" / "both" / "report.html").stat().st_size > 1000
    assert re.search(r"failed: too fast, seed 0: the loss is \w+ at task 0.*; see .*log.txt", said)
    assert "1 of 2 runs failed; the same command tries them again" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "Unrecognized options: nothing Available subcommands: demo, run,"),
        ([], "Expected one of {demo, run,"),
        (["report"], "Missing from isoplast report: DIR"),
        (["run", "--seed", "a\x1b]0;owned\x07"], "Error parsing --seed"),
        (["run", "--methud", "adam"], "--method NAME"),
        (["report", "a", "--\x1b[2J\nnext", "x" * 100_000], "For full helptext"),
    ],
)
def test_words_that_are_no_command_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("isoplast: ")
    assert captured.err.count("\n") == 1
    assert captured.err[:-1].isprintable()
    assert len(captured.err) <= 401
    assert said in captured.err


@pytest.mark.parametrize("lr", ["5e-324", "1e-320", "1e-45", "1e30", "1e300"])
@pytest.mark.parametrize("method", ["adam", "adamo", "muono", "sgdo"])
def test_absurd_learning_rates_change_nothing_or_fail_the_run_with_the_reason(
    lr: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", *TINY, "--lr", lr, "--method", method, "--out", str(tmp_path)]
    status = main(words)
    errors = capsys.readouterr().err
    if float(lr) < 1:
        assert (status, errors) == (0, "")
    elif float(lr) < 3e38:
        assert status == 1
        assert re.fullmatch(r"isoplast: failed: the loss is (nan|inf) .*lower the learning rate\n", errors)
    else:
        assert status == 2
        assert errors == "isoplast: lr is 1e+300: the largest number that float32 can hold is 3.4e38\n"
