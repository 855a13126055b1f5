"""Formulas as a terminal can show them: the LaTeX of docstrings in Unicode."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
_GAP = "\0"  # between two formulas of one line
_SYMBOLS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "lambda": "λ", "mu": "μ", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ",
    "phi": "φ", "Phi": "Φ", "Delta": "Δ", "nabla": "∇", "ell": "ℓ", "sum": "Σ", "in": "∈", "sim": "∼",
    "le": "≤", "ge": "≥", "to": "→", "leftarrow": "←", "times": "×", "cdot": "·", "infty": "∞", "top": "T",
    "lceil": "⌈", "rceil": "⌉", "lVert": "‖", "rVert": "‖", "|": "‖", "neq": "≠", "approx": "≈", "angle": "∠",
}  # fmt: skip
_SPACES = {",": " ", ";": " ", " ": " ", ":": " ", "!": "", "quad": _GAP, "qquad": _GAP}
# What a terminal needs nothing for: sizes of brackets, styles.
_SILENT = {"left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr", "textstyle", "displaystyle"}
_WORDS = {"max", "min", "cos", "sin", "exp", "log", "ln", "det", "tr", "sup", "inf", "arg"}
_RELATIONS = frozenset("←∈∼≤≥→×·≠≈")
_ACCENTS = {"hat": "\u0302", "tilde": "\u0303", "bar": "\u0304"}
_RAW = {"text", "mathrm", "mathbb", "mathcal", "mathbf", "operatorname", "textrm"}
_CLOSING = {"(": ")", "|": "|", "‖": "‖"}
_DIGITS = "0123456789+-=()"
_BELOW = dict(
    zip(_DIGITS + "aehijklmnoprstuvxβγρφχ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎" + "ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ", strict=True)
)
_ABOVE = dict(
    zip(
        _DIGITS + "abcdefghijklmnoprstuvwxyzTβγδθ",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾" + "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀᵝᵞᵟᶿ",
        strict=True,
    )
)
_SMALL = frozenset((*_BELOW.values(), *_ABOVE.values()))


def formulas(tex: str) -> list[str]:
    r"""A formula in Unicode; several that stand side by side, one for each.

    Args:
        tex: in the LaTeX of our docstrings.

    Example:
        >>> formulas(r"\theta \leftarrow s\, \theta + p\, \theta', \qquad \theta' \sim p_{\text{init}}")
        ['θ ← s θ + p θ′', 'θ′ ∼ p_init']
        >>> formulas(r"\hat\sigma_{max} \le \frac{\zeta}{2} \sqrt{m + 1}^{2k}")
        ['σ̂_max ≤ ζ/2 √(m + 1)²ᵏ']
    """
    text = _Reader(tex).group()
    return [re.sub(r"\s+", " ", part).strip().rstrip(",") for part in text.split(_GAP) if part.strip()]


class _Reader:
    """Reads a formula from left to right."""

    def __init__(self, tex: str) -> None:
        self.tokens = _TOKEN.findall(tex)
        self.place = 0

    def next(self) -> str | None:
        """The next token, which stays where it is."""
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def group(self, end: str | None = None) -> str:
        """Everything up to a token, which is consumed, or to the end."""
        found = ""
        while (token := self.next()) is not None:
            if token == end:
                self.place += 1
                break
            found += self.item(found)
        return found

    def item(self, before: str = "") -> str:
        """The next piece: a character, a group, a command with what it applies to."""
        token = self.tokens[self.place]
        self.place += 1
        if token == "{":
            return self.group("}")
        if token == "^":
            return _shifted(self.argument(), _ABOVE, "^")
        if token == "_":
            return _shifted(self.argument(), _BELOW, "_")
        if token == "'":
            return "′"
        if token.startswith("\\"):
            return self.command(token[1:], before)
        return " " if token.isspace() else token

    def argument(self) -> str:
        """The next piece that is no space."""
        while (token := self.next()) is not None and token.isspace():
            self.place += 1
        return "" if token is None else self.item()

    def command(self, name: str, before: str) -> str:
        """What a command stands for."""
        if name in ("frac", "tfrac", "dfrac"):
            return f"{_bracketed(self.argument())}/{_bracketed(self.argument())}"
        if name == "sqrt":
            return "√" + _bracketed(self.argument())
        if name == "overline":
            return f"mean({self.argument()})"
        if name in _ACCENTS:
            base = self.argument()
            return base[:1] + _ACCENTS[name] + base[1:]
        if name in _RAW:
            return self.argument()
        if name == "begin":
            return self.cases() if self.argument() == "cases" else ""
        if name in _WORDS:
            gap = " " if before[-1:].isalnum() else ""
            following = (t for t in self.tokens[self.place :] if not t.isspace() and t[1:] not in _SILENT)
            bare = next(following, "(")
            return gap + name + (" " if bare.isalnum() or bare.startswith("\\") else "")
        if name in _SILENT:
            return ""
        if name in _SPACES:
            return _SPACES[name]
        symbol = _SYMBOLS.get(name, name)
        return f" {symbol} " if symbol in _RELATIONS else symbol

    def cases(self) -> str:
        r"""The rows of \begin{cases}: a if b, c otherwise."""
        rows, row, column = [], ["", ""], 0
        while (token := self.next()) is not None:
            if token == "\\end":
                self.place += 1
                self.argument()
                break
            if token in ("&", "\\\\"):
                self.place += 1
                column = 1 if token == "&" else 0
                if column == 0:
                    rows.append(row)
                    row = ["", ""]
                continue
            row[column] += self.item(row[column])
        parts = [[cell.strip() for cell in each] for each in [*rows, row] if any(map(str.strip, each))]
        return ", ".join(
            f"{value} otherwise" if when == "else" else f"{value} if {when}" for value, when in parts
        )


def _shifted(text: str, alphabet: dict[str, str], mark: str) -> str:
    """An index or a power: in small letters where there are such, and they are few enough to be read."""
    text = text.strip()
    compact = text.replace(" ", "")
    readable = len(compact) <= 3 and not (len(compact) == 3 and compact.isalpha())
    if readable and all(character in alphabet for character in compact):
        return "".join(alphabet[character] for character in compact)
    plain = re.fullmatch(r"[\w′]+|.", text) and not any(character in _SMALL for character in text)
    return mark + (text if plain else f"({text})")


def _bracketed(text: str) -> str:
    """In brackets, unless it is one thing already."""
    text = text.strip()
    return text if _is_one(text) else f"({text})"


def _is_one(text: str) -> bool:
    """Whether a text is a word, or one pair of brackets with a word around it, such as f(x + y)²."""
    opened = next((place for place, character in enumerate(text) if character in _CLOSING), None)
    if opened is None:
        return _is_word(text)
    closed = _end(text, opened)
    return _is_word(text[:opened]) and _is_word(text[closed + 1 :])


def _is_word(text: str) -> bool:
    return not re.search(r"[\s+\-/*←≤=,()|‖]", text)


def _end(text: str, opened: int) -> int:
    """The place of the bracket that closes the one at a place."""
    closing, depth = _CLOSING[text[opened]], 0
    for place in range(opened + 1, len(text)):
        if text[place] == closing and depth == 0:
            return place
        depth += (text[place] == "(") - (text[place] == ")")
    return len(text)


def readable(document: str) -> str:
    """A docstring with all its formulas in Unicode; those that stand by themselves get a line each."""
    document = re.sub(r":math:`(.*?)`", lambda found: formulas(found[1])[0], document, flags=re.DOTALL)
    return "\n\n".join(_blocks(document))


def _blocks(document: str) -> Iterator[str]:
    for block in document.split("\n\n"):
        head, directive, tex = block.partition(".. math::")
        yield "\n".join(f"{head}    {line}" for line in formulas(tex)) if directive else block
