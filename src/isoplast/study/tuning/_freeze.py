"""Writing the study that the choice leads to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isoplast._core.files import write_whole
from isoplast.study._study import Study
from isoplast.study._yaml import dump_yaml
from isoplast.study.tuning._select import Choice
from isoplast.study.tuning._tuning import Tuning, with_values


def freeze(tuning: Tuning, choices: Sequence[Choice], path: Path) -> Study:
    """Write the study of the evaluation, with the chosen settings, as a file that runs.

    Its comments say what was tried, how sure each choice is, and where an optimum lies at an edge.

    Args:
        tuning: what was tuned.
        choices: as `select` returns them.
        path: the file; replaced if it is there.

    Returns:
        The study in the file.
    """
    frozen = frozen_study(tuning, choices, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, frozen.text.encode())
    return frozen


def frozen_study(tuning: Tuning, choices: Sequence[Choice], path: Path) -> Study:
    """The study that `freeze` writes, its document in `text`; nothing is written."""
    chosen = {choice.method: choice.values for choice in choices}
    first = [run for run in tuning.study.runs if run.seed == tuning.study.runs[0].seed]
    methods = []
    for run in first:
        name = tuning.name(run)
        mapping = with_values(run, chosen[name], label=name).to_mapping()
        methods.append({key: value for key, value in mapping.items() if key not in ("seed", "path")})
    document = {
        "name": path.stem,
        **({"about": tuning.study.about} if tuning.study.about else {}),
        **({"path": list(first[0].path)} if first[0].path else {}),
        **({"sinks": [sink.to_mapping() for sink in tuning.study.sinks]} if tuning.study.sinks else {}),
        "methods": methods,
        "seeds": list(dict.fromkeys(run.seed for run in tuning.study.runs)),
    }
    text = "".join(f"# {line}\n" for line in _head(tuning, choices)) + dump_yaml(document)
    return Study.parse(text, str(path), folder=path.resolve().parent)


def _head(tuning: Tuning, choices: Sequence[Choice]) -> list[str]:
    """What was tried, and how sure the choices are."""
    spans = {f"{tuning.tasks(name)} of {run.tasks}": None for name, run in tuning.methods.items()}
    counted = "all tasks" if tuning.last is None else f"the last {tuning.last} tasks"
    lines = [
        f"Frozen: the settings of {tuning.study.name} that tuning chose.",
        f"Tuned on {', '.join(spans)} tasks, seeds {', '.join(map(str, tuning.seeds))}, sampler "
        f"{tuning.sampler}; the best mean score of {counted}.",
        *map(str, choices),
    ]
    return "\n".join(lines).splitlines()
