"""Methods of other people: as objects, by `package.module:Name`, by entry points of installed packages."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from contract_runs import network, step
from torch import nn

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Combination, training

MODULE = '''
import dataclasses
from isoplast.methods import Method, MethodInfo

@dataclasses.dataclass(frozen=True)
class Halving(Method):
    """Adam with half the learning rate."""

    name = "halving"
    info = MethodInfo(title="Halving", source="2026", controls="nothing", claims=frozenset({"optimizer"}))
    factor: float = 0.5

    def optimizer(self, model, lr):
        return super().optimizer(model, lr * self.factor)

class Outer:
    Inner = Halving

other = 3
class Stranger:
    pass
'''


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody's, found on the path."""
    (tmp_path / "foreign_methods.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "foreign_broken.py").write_text("raise RuntimeError('no\\nway')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "foreign_methods"
    for name in ("foreign_methods", "foreign_broken"):
        sys.modules.pop(name, None)


DATA = torch.ones(2, 6), torch.tensor([0, 2])


def test_a_class_is_found_by_module_and_name(foreign: str) -> None:
    method = methods.get(f"{foreign}:Halving", factor=0.25)
    assert method.settings() == (("factor", 0.25),)
    assert methods.get(f"{foreign}:Outer.Inner").name == "halving"
    run = training(f"{foreign}:Halving", network(), lr=1e-2)
    assert run.optimizer.param_groups[0]["lr"] == 5e-3
    step(run, DATA)
    assert "halving" not in methods.names()


def test_it_combines_with_others_and_takes_settings(foreign: str) -> None:
    together = methods.get(f"layernorm+{foreign}:Halving", factor=0.1, **{"layernorm.eps": 1e-3})
    assert together.name == "layernorm+halving"
    run = training(together, network(), lr=1e-2)
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    with pytest.raises(IsoplastError, match="adamo and halving cannot be combined: both bring an optimizer"):
        methods.get(f"adamo+{foreign}:Halving")
    with pytest.raises(IsoplastError, match="names halving twice"):
        methods.get(f"{foreign}:Halving+{foreign}:Outer.Inner")
    with pytest.raises(IsoplastError, match="names halving twice"):
        Combination((methods.get(f"{foreign}:Halving"), methods.get(f"{foreign}:Halving")))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("foreign_methods:Halvin", "foreign_methods has no 'Halvin'"),
        ("foreign_nowhere:Halving", "foreign_nowhere cannot be imported"),
        ("foreign_broken:Halving", "foreign_broken cannot be imported"),
        ("foreign_methods:Stranger", "it must be a class derived from"),
        ("foreign_methods:other", "it must be a class derived from"),
        (":Halving", "cannot be imported"),
        ("halvin", "unknown method 'halvin'"),
    ],
)
def test_what_cannot_be_had_is_said_with_its_name(foreign: str, name: str, reason: str) -> None:
    with pytest.raises(IsoplastError, match=reason) as error:
        methods.get(name)
    assert name in str(error.value)


def test_settings_of_a_foreign_method_are_checked_like_ours(foreign: str) -> None:
    with pytest.raises(IsoplastError, match="setting of method halving 'facto': did you mean 'factor'"):
        methods.get(f"{foreign}:Halving", facto=1)
    with pytest.raises(IsoplastError, match="factor of method halving is 'x': it must be a finite number"):
        methods.get(f"{foreign}:Halving", factor="x")


def test_an_object_passes_where_a_name_does(foreign: str) -> None:
    method = methods.get(f"{foreign}:Halving")
    assert methods.get(method) is method
    with pytest.raises(IsoplastError, match="method is 3: give a name, or an object of a class derived from"):
        methods.get(3)  # type: ignore[arg-type]


def test_entry_points_of_installed_packages_are_found_when_asked_for(tmp_path: Path) -> None:
    """In a process of its own, with a package as pip leaves it; nothing is imported before it is used."""
    (tmp_path / "foreign_methods.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "foreign_broken.py").write_text("raise RuntimeError('no')", encoding="utf-8")
    info = tmp_path / "foreign-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n", encoding="utf-8")
    points = "[isoplast.methods]\nhalving = foreign_methods:Halving\nbroken = foreign_broken:Nothing\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    script = textwrap.dedent("""
        import sys
        from importlib import metadata
        asked = []
        real = metadata.entry_points
        metadata.entry_points = lambda **kwargs: asked.append(kwargs) or real(**kwargs)
        from isoplast import methods
        methods.get("adamo"), methods.names()
        ours = [each for each in asked if each.get("group", "isoplast").startswith("isoplast")]
        assert ours == [], "scanned before anybody asked for a name that is not ours"
        assert "halving" not in methods.names()
        assert {"halving", "broken", "adamo"} <= set(methods.names(installed=True))
        assert "foreign_methods" not in sys.modules
        assert methods.get("halving+layernorm", factor=0.1).parts[0].factor == 0.1
        assert "foreign_broken" not in sys.modules
        wrong = {"broken": "foreign_broken cannot be imported", "halvin": "did you mean 'halving'"}
        for name, reason in wrong.items():
            try:
                methods.get(name)
            except Exception as error:
                assert type(error).__name__ == "IsoplastError" and reason in str(error), error
            else:
                raise AssertionError(name)
    """)
    path = [str(tmp_path), *sys.path]
    code = f"import sys; sys.path[:] = {path!r}\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_registered_class_is_known_in_this_process() -> None:
    class Own(methods.Adam):
        """Adam."""

        name = "own-adam"

    known = dict(methods.METHODS._known)
    try:
        assert methods.register(Own) is Own
        assert isinstance(methods.get("own-adam"), Own)
        assert "own-adam" in methods.names()
        assert isinstance(training("own-adam", nn.Linear(2, 2)).method, Own)
    finally:
        methods.METHODS._known.clear()
        methods.METHODS._known.update(known)
