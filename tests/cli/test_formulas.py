"""Formulas in a terminal: no LaTeX is left in what `isoplast methods` prints."""

from __future__ import annotations

import inspect
import re

import pytest

from isoplast import methods
from isoplast.cli import main
from isoplast.cli.methods import _formulas
from isoplast.cli.methods._formulas import formulas, readable

COMMAND = re.compile(r"\\([A-Za-z]+)")
KNOWN = {
    *_formulas._SYMBOLS, *_formulas._SPACES, *_formulas._SILENT, *_formulas._WORDS, *_formulas._RAW,
    *_formulas._ACCENTS, "frac", "tfrac", "sqrt", "overline", "begin", "end",
}  # fmt: skip


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"\frac{a + b}{c}", ["(a + b)/c"]),
        (r"\frac1H \sum_k x_k", ["1/H Σₖ xₖ"]),
        (r"\frac{\|\phi(x)\|^2}{d}", ["‖φ(x)‖²/d"]),
        (r"\frac{f(x)}{g(x) + 1}", ["f(x)/(g(x) + 1)"]),
        (r"\frac{|a| + |b|}{2}", ["(|a| + |b|)/2"]),
        (r"\sqrt{m}", ["√m"]),
        (r"\sqrt{m / n}", ["√(m / n)"]),
        (r"x_{i+d/2}", ["x_(i+d/2)"]),
        (r"\sigma_{max}^2", ["σ_max²"]),
        (r"W^{-1/2}", ["W^(-1/2)"]),
        (r"w_{t+1}", ["wₜ₊₁"]),
        (r"10^{-9}", ["10⁻⁹"]),
        (r"\tilde\theta \leftarrow m", ["θ̃ ← m"]),
        (r"\overline{|L|}", ["mean(|L|)"]),
        (r"f_{\theta_t}(x)", ["f_(θₜ)(x)"]),
        (r"\min_\theta \ell", ["min_θ ℓ"]),
        (r"p_i \log p_i", ["pᵢ log pᵢ"]),
        (r"b \max(z, 0)", ["b max(z, 0)"]),
        (r"\cos\left(\frac{\pi}{2} x\right)", ["cos(π/2 x)"]),
        (r"a, \qquad b,\quad c", ["a", "b", "c"]),
        (r"\begin{cases} 2 a & a \le q \\ q & \text{else} \end{cases}", ["2 a if a ≤ q, q otherwise"]),
        (r"\unknown x", ["unknown x"]),
        ("a\n  + b", ["a + b"]),
    ],
)
def test_a_formula_in_unicode(tex: str, expected: list[str]) -> None:
    assert formulas(tex) == expected


def test_formulas_of_a_docstring_stand_on_lines_of_their_own() -> None:
    document = "One :math:`\\sigma_i` here.\n\n.. math:: a \\le b, \\qquad\n          c\n\nAfter."
    assert readable(document) == "One σᵢ here.\n\n    a ≤ b\n    c\n\nAfter."


@pytest.mark.parametrize("name", methods.names())
def test_no_latex_reaches_the_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = inspect.getdoc(type(methods.get(name))) or ""
    used = {
        w for tex in re.findall(r"math::?.*?(?=\n\n|\Z)", document, re.DOTALL) for w in COMMAND.findall(tex)
    }
    assert used <= KNOWN
    assert main(["methods", name]) == 0
    said = capsys.readouterr().out
    assert not re.search(r"[\\{}$]|:math:|\.\. math", said)
