"""Rules that a test must hold: each change below breaks one, and the test named beside it must fail.

"The same bits twice" passes for a rule that is wrong twice; these are the rules that such tests missed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# (file below src/isoplast, what stands there, what is put in its place, the test that must fail)
MUTATIONS = {
    "norms lose bias_decay=0": (
        "optim/_param_groups.py",
        'settings = {"isometry": 0.0} if d.role == "bias" else {"isometry": 0.0, "bias_decay": 0.0}',
        'settings = {"isometry": 0.0}',
        "tests/optim/test_bias_decay_rules.py",
    ),
    "the same order in every epoch": (
        "study/run/_supervised.py",
        '(self.recipe.seed, "order", self._task, self._epoch)',
        '(self.recipe.seed, "order", self._task)',
        "tests/study/run/test_supervised.py",
    ),
    "the same order in every task": (
        "study/run/_supervised.py",
        '(self.recipe.seed, "order", self._task, self._epoch)',
        '(self.recipe.seed, "order", self._epoch)',
        "tests/study/run/test_supervised.py",
    ),
    "the same order for every seed": (
        "study/run/_supervised.py",
        '(self.recipe.seed, "order", self._task, self._epoch)',
        '("order", self._task, self._epoch)',
        "tests/study/run/test_supervised.py",
    ),
    "the count of steps goes on over a switch": (
        "study/run/_supervised.py",
        "        super()._start(method, network)\n",
        "        super()._start(method, network)\n        self._training.steps = self.steps\n",
        "tests/study/run/test_supervised.py",
    ),
    "rows are not forced to disk": (
        "study/store/_files.py",
        "        file.flush()\n        os.fsync(file.fileno())\n        return file.tell()",
        "        file.flush()\n        return file.tell()",
        "tests/study/store/test_rows.py",
    ),
    "rows are not checked": (
        "study/store/_files.py",
        'if line[-_TAIL:] != b\', "crc": "%08x"}\' % checksum:',
        'if line[-_TAIL:-10] != b\', "crc": "\':',
        "tests/study/store/test_rows.py",
    ),
    "the mean of the Jacobian's condition numbers": (
        "diagnostics/jacobian/_spectrum.py",
        "condition_number=float(conditions.median())",
        "condition_number=float(conditions.mean())",
        "tests/diagnostics/jacobian",
    ),
    "dead is nearly dead": (
        "diagnostics/activity/_activity.py",
        "dead=share(self.total == 0)",
        "dead=share(self.total <= 1e-3)",
        "tests/diagnostics/activity",
    ),
    "held-out data are those trained on": (
        "study/run/_supervised.py",
        "held_out = self._on_device(task.test_examples), task.test_targets.to(self.recipe.device)",
        "held_out = self._on_device(task.examples), task.targets.to(self.recipe.device)",
        "tests/study/run/test_supervised.py",
    ),
    "workers find modules where they stand": (
        "study/executors/_base.py",
        "sys.path[:] = [p for p in sys.path if p]; ",
        "",
        "tests/study/test_own_parts.py",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_noticed(name: str, tmp_path: Path) -> None:
    file, before, after, test = MUTATIONS[name]
    shutil.copytree(
        ROOT / "src" / "isoplast", tmp_path / "isoplast", ignore=shutil.ignore_patterns("__pycache__")
    )
    target = tmp_path / "isoplast" / file
    text = target.read_text(encoding="utf-8")
    assert text.count(before) == 1, (
        f"{file} says this {text.count(before)} times now: bring the list up to date"
    )
    target.write_text(text.replace(before, after), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        str(ROOT / test),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"no test failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
