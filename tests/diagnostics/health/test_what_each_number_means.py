"""The page that explains the numbers knows all of them."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from isoplast import diagnostics
from isoplast.nn import build
from isoplast.study import INSTRUMENTS, METRICS

PAGE = Path(__file__).parents[3] / "docs" / "what-each-number-means.md"


def sections():
    text = PAGE.read_text(encoding="utf-8")
    return {part.partition("\n")[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}


def named(section):
    return set(re.findall(r"`([\w.]+)`", section))


def test_every_number_of_every_instrument_is_explained():
    torch.manual_seed(0)
    model = build("mlp", input_shape=(8,), classes=3, width=16, depth=2)
    x, y = torch.randn(24, 8), torch.randint(3, (24,))
    twin = build("mlp", input_shape=(8,), classes=3, width=16, depth=2)
    updates, churn = diagnostics.Updates(model), diagnostics.Churn(model, x)
    results = {
        "weights": [diagnostics.weight_spectra(model, initial=twin)],
        "activity": [diagnostics.activity(model, x)],
        "jacobian": [diagnostics.jacobian(model, x)],
        "ntk": [diagnostics.ntk(model, x, centred=True, targets=y)],
        "curvature": [diagnostics.curvature(model, x, y)],
        "gradients, updates, churn": [diagnostics.gradients(model, x, y), updates.step(), churn.step()],
        "plasticity": [diagnostics.plasticity(model, x, tasks=2, steps=2)],
    }
    layer = diagnostics.weight_spectra(model)["layers.0"].as_dict()
    known = sections()
    # `finite` is explained above all sections, other limits of dormancy and the twin's numbers by example.
    general = re.compile(r"finite|dormant_at_0(\.1)?|fresh_\w+")
    for name, found in results.items():
        numbers = {key for one in found for key in one.as_dict() if "/" not in key}
        missing = (numbers | (layer.keys() if name == "weights" else set())) - named(known[name])
        assert not {number for number in missing if not general.fullmatch(number)}, name


def test_every_column_of_a_study_is_explained():
    measured = {one.name for one in METRICS if one.source in INSTRUMENTS and one.kind == "number"}
    columns = {*measured, "accuracy", "loss", "chance"}
    assert columns <= named(sections()["In the report of a study"])
