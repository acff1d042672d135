"""Gives answers one spelling. Typesetting is stripped; a value is never changed."""

import re

MAX_CHARS = 2000
"""Longer texts are only stripped, so that hostile text stays cheap; they are no final answers."""

_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?|[A-Za-z]+")
_SYMBOLS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "\u22c5": r"\cdot ", "\u00f7": "/",
        "\u2044": "/", "\u00b7": r"\cdot ", "\u03c0": r"\pi ", "\u221a": r"\sqrt ",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u00b2": "^2", "\u00b3": "^3",
        "\u00bd": " 1/2", "\u00bc": " 1/4", "\u00be": " 3/4", "\u00b1": r"\pm ",
        "\u00b0": r" \text{degree}", "\u2264": r"\le ", "\u2265": r"\ge ", "\u221e": r"\infty ",
        "\u2032": "'", "\u00b5": r"\mu ", "\u03bc": r"\mu ", "\u2019": "'",
    }
)  # fmt: skip
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[()\[\]]|(?<!\\)\$", " "),
        (r"\\(?:left|right|displaystyle|textstyle|bigl|bigr|Bigl|Bigr)(?![a-zA-Z])\.?", ""),
        (r"\\!|\{\}", ""),
        (r"\\(?:[,;:> ]|quad(?![a-zA-Z])|qquad(?![a-zA-Z]))|(?<!\\)~", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:boxed|fbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(?:textbf|textit|mathbf|bm|mbox|textrm|rm)\s*\{([^{}]*)\}", r"\\text{\1}"),
        (r"\\text\s*\{\s*(-?[0-9][0-9.,/]*)\s*\}", r"\1"),
        (r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}", ", "),
        (r"(?<=[0-9])\{,\}(?=[0-9]{3})", ","),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))", r" \\text{degree}"),
        (r"^(-?[0-9.]+)\s*\^\s*\{\s*\\prime\s*\\prime\s*\}$", r"\1 \\text{arcsecond}"),
        (r"\\var(?=(?:epsilon|theta|kappa|rho|sigma|phi)(?![a-zA-Z]))", r"\\"),
        (r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le"),
        (r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge"),
        (r"_\{\s*\\(max|min)\s*\}", r"_{\1}"),
        (r"(?<=[0-9])\.(?=[/*^+\-)}])", ""),
        (r"\\%", "%"),
        (r"^(?:\\approx|\u2248|approximately|about)(?![a-zA-Z])", ""),
        (r"^[\s*`:]+|[\s*`.,;:]+$", ""),
        (r"\s+", " "),
    )
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def normalise(text: str) -> str:
    """Strip delimiters, spacing commands, emphasis and end punctuation. Idempotent."""
    text = text.strip()
    if len(text) > MAX_CHARS or _PLAIN.fullmatch(text):
        return text
    text = text.translate(_SYMBOLS)
    while (tidied := _tidy(text)) != text:
        text = tidied
    return text


def _tidy(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return balance_braces(text)


def balance_braces(text: str) -> str:
    """Drop closing braces that nothing opened and close what stays open."""
    depth = 0
    stray: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            if depth:
                depth -= 1
            else:
                stray.append(match.start())
    for position in reversed(stray):
        text = text[:position] + text[position + 1 :]
    return text + "}" * depth


_GAP = re.compile(r"(?<![0-9.])\s+|\s+(?![0-9.])")


def same_text(left: str, right: str) -> bool:
    """Whether two normalised answers are the same text.

    Spaces do not count except between digits (`1 1/2` is not `11/2`), nor does the case of words.
    """
    if left == right:
        return bool(left)
    left, right = _GAP.sub("", left), _GAP.sub("", right)
    if left == right:
        return bool(left)
    return len(left) > 1 and left.isalpha() and left.casefold() == right.casefold()
