"""The rules of the house: floors, no circles, and no private imports between packages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "isoplast"

# A package imports from lower floors only; those of one floor do not know each other.
FLOORS = (
    {"_core"},
    {"_errors"},
    {"isometry"},
    {"nn"},
    {"model"},
    {"optim"},
    {"diagnostics", "methods", "data", "jax"},
    {"streams"},
    {"rl"},
    {"statistics"},
    {"study"},
    {"report"},
    {"integrations", "testing"},
    {"cli"},
)
FLOOR = {package: number for number, floor in enumerate(FLOORS) for package in floor}


def modules() -> dict[str, Path]:
    """All modules by dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """What a file imports from isoplast, wherever in it: (module, name), the name "" for `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module and node.module.split(".")[0] == "isoplast":
                yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "isoplast")


def resolved(module: str, name: str) -> str:
    """The module that an import reads: a name may be a module itself."""
    return f"{module}.{name}" if f"{module}.{name}" in MODULES else module


def package(module: str) -> str:
    """The top-level package of a module; "" for isoplast itself."""
    return [*module.split("."), ""][1]


INSIDE = [name for name in MODULES if package(name) not in ("", "__main__")]


def test_every_package_has_a_floor() -> None:
    assert {package(name) for name in INSIDE} <= FLOOR.keys()


@pytest.mark.parametrize("name", INSIDE)
def test_a_module_imports_from_lower_floors_only(name: str) -> None:
    own = package(name)
    for module, imported in imports(MODULES[name]):
        other = package(resolved(module, imported))
        if other in ("", own):
            assert other == own or imported == "__version__" or not imported, f"{name}: the public face"
            continue
        assert FLOOR[other] < FLOOR[own], f"{name} imports {module} {imported}"


@pytest.mark.parametrize("name", INSIDE)
def test_another_package_is_used_by_what_its_face_offers(name: str) -> None:
    for module, imported in imports(MODULES[name]):
        found = resolved(module, imported)
        if package(found) in ("", package(name)):
            continue
        if package(found) == "_core":
            assert not any(part.startswith("_") for part in found.split(".")[2:]), f"{name}: {found}"
            continue
        assert found.count(".") == 1, f"{name} reaches into {found} for {imported}"
        face = ast.parse(MODULES[found].read_text(encoding="utf-8"))
        offered = next(
            ast.literal_eval(node.value)
            for node in face.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        )
        whole = found != module or not imported
        assert whole or imported in offered, f"{name}: {found} does not offer {imported}"


def test_no_two_modules_import_each_other() -> None:
    graph = {
        name: {resolved(*found) for found in imports(path)} - {name, "isoplast"}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join([*above[above.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_nothing_under_the_gpl_is_imported() -> None:
    """Tests and benchmarks compare with MinAtar's own games; what is installed does without."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {one.split(".")[0] for one in found} & {"minatar", "pgx_minatar", "ale_py"}, name


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their names alone, and collects one of two."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    assert {name for name in names if names.count(name) > 1} <= {"conftest.py"}
