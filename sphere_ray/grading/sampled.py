r"""Tells unequal expressions apart by their values at two points, without a parser or a worker.

It reads what most formulas are made of (numbers, letters with subscripts, `\frac`, `\sqrt`, powers,
products without a sign, `\sin x`) and gives every letter a fixed value. Expressions that are equal
as formulas are equal at every point where both are defined; what is ambiguous (`1/2x`, `f'`, `\pm`,
units) is not read, and nothing follows from it.
"""

import cmath
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from sphere_ray.grading.evaluator import Evaluator, UnreadableError
from sphere_ray.grading.exact import split_items
from sphere_ray.grading.rational import long_fractions

MAX_CHARS = 400
_RELATIVE, _ROUNDING = 1e-6, 1e-9
_POINTS = ((0.2, 0.7), (1.2, 1.5))
"""Where letters lie: (lowest, width)."""

_UNREAD = re.compile(r"[^-+*/^(){}\[\]_.A-Za-z0-9\\ ]|(?<![\\A-Za-z])[A-Za-z]{3}")
_EQUATION = re.compile(r"([A-Za-z](?:_(?:\w|\{\w+\}))?(?:\([\w, ]+\))?) ?= ?([^=]+)")
_SCIENTIFIC = re.compile(r"-?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]{1,3}")
_NUMBER = re.compile(r"\s*([0-9]{1,300}(?:\.[0-9]*)?|\.[0-9]+)(?![eE][-+]?[0-9])\s*")
_MIXED = re.compile(r"[0-9.]\s*\\frac")
_NAME = re.compile(
    r"\s*(?:\\([A-Za-z]+)|([A-Za-z]))(?:\s*_\s*(?:([A-Za-z0-9])|\{([A-Za-z0-9 ]{1,12})\}))?\s*"
)
_FACTOR = re.compile(r"\s*(?:\\(?!cdot|times|div)[A-Za-z]|[A-Za-z(\[{]|(?P<digit>[0-9.]))")
_DIGIT = re.compile(r"\s*([0-9])\s*")
_EXPONENT = re.compile(r"\s*\^\s*(?:([2-9])(?![0-9])|\{\s*([2-9])\s*\})\s*")
_THOUSANDS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")
_LISTS = (("(", ")"), ("[", "]"), (r"\{", r"\}"))
_MAX_NESTING = 4
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_GREEK = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega pi
"""
_LETTERS = frozenset(_GREEK.split())
_CONSTANTS = {"e": complex(math.e), "i": 1j, "pi": complex(math.pi)}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda value: 1 / cmath.tan(value),
    "sec": lambda value: 1 / cmath.cos(value),
    "csc": lambda value: 1 / cmath.sin(value),
    "arctan": cmath.atan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "exp": cmath.exp,
    "ln": lambda value: cmath.log(_positive(value)),
}


class _Sample(NamedTuple):
    """A value, and the largest size on the way to it, which bounds its rounding error."""

    value: complex
    peak: float


def certainly_differ(left: str, right: str) -> bool:
    """Whether two normalised answers differ wherever both are defined. Symmetric.

    In lists, tuples and sets of any nesting it is enough that one has a value which the other has
    not. Of `y = ...` the right side counts, unless the other side names something else.
    """
    ours, others = _items(left), _items(right)
    return _lacks(ours, others) or _lacks(others, ours)


def _items(text: str, nesting: int = 0) -> tuple[str, ...]:
    """The values of a list or of nested ones; `text` itself when it is none, or not understood."""
    text = text.strip()
    listed = "," in text and len(text) <= MAX_CHARS and not _THOUSANDS.search(text)
    if not listed or nesting > _MAX_NESTING:
        return (text,)
    parts = split_items(text)
    for begin, end in _LISTS:
        if parts and len(parts) == 1 and text.startswith(begin) and text.endswith(end):
            parts = split_items(text[len(begin) : -len(end)])
    if not parts or len(parts) == 1:
        return (text,)
    return tuple(item for part in parts for item in _items(part, nesting + 1))


def _lacks(values: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return any(all(_unequal(value, other) for other in others) for value in values)


def _unequal(left: str, right: str) -> bool:
    (left_name, left), (right_name, right) = _sides(left), _sides(right)
    if left_name and right_name and left_name != right_name:
        return False
    apart = [
        _apart(mine, other)
        for mine, other in zip(_samples(left), _samples(right), strict=True)
        if mine and other
    ]
    return bool(apart) and all(apart)


def _sides(text: str) -> tuple[str, str]:
    match = _EQUATION.fullmatch(text)
    return (match[1].replace(" ", ""), match[2]) if match else ("", text)


def _apart(left: _Sample, right: _Sample) -> bool:
    noise = _ROUNDING * max(left.peak, right.peak)
    size = max(abs(left.value), abs(right.value))
    return abs(left.value - right.value) > _RELATIVE * size + noise


@lru_cache(maxsize=4096)
def _samples(text: str) -> tuple[_Sample | None, ...]:
    """The values at all points; None where there is none."""
    if _SCIENTIFIC.fullmatch(text):
        value = float(text)
        return (_Sample(complex(value), 0.0),) * len(_POINTS)
    if len(text) > MAX_CHARS or _UNREAD.search(text) or _MIXED.search(text):
        return (None,) * len(_POINTS)
    return tuple(_sample(long_fractions(text), *point) for point in _POINTS)


def _sample(text: str, lowest: float, width: float) -> _Sample | None:
    evaluator = _AtPoint(text, lowest, width)
    try:
        return _Sample(evaluator.evaluate(), evaluator.peak)
    except (UnreadableError, ArithmeticError, ValueError):
        return None


def _positive(value: complex) -> complex:
    """Only these have a logarithm and roots on which all conventions agree."""
    if value.imag or value.real < 0:
        raise UnreadableError
    return value


class _AtPoint(Evaluator[complex]):
    """In floating point, with a value for each letter, and products without a sign."""

    def __init__(self, text: str, lowest: float, width: float) -> None:
        super().__init__(text)
        self._lowest, self._width = lowest, width
        self.peak = 0.0

    def _bounded(self, value: complex) -> complex:
        if not cmath.isfinite(value):
            raise UnreadableError
        self.peak = max(self.peak, abs(value))
        return value

    def _raise(self, base: complex, exponent: complex) -> complex:
        whole = not exponent.imag and exponent.real.is_integer()
        return self._bounded((base if whole else _positive(base)) ** exponent)

    def _juxtaposed(self, *, after_division: bool) -> bool:
        factor = _FACTOR.match(self._text, self._at)
        if factor and (after_division or factor["digit"] or self._peek() == "{"):
            raise UnreadableError  # 1/2x, x 2, 3 {cm}
        return factor is not None

    def _atom(self) -> complex:
        if self._peek() in _BRACKETS:
            return self._bracketed()
        if self._accept("frac"):
            return self._frac()
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return self._bounded(complex(number[1]))
        return self._bounded(self._named())

    def _bracketed(self) -> complex:
        return self._group(self._peek(), _BRACKETS[self._peek()])

    def _named(self) -> complex:
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise UnreadableError
        self._at = name.end()
        command, letter, short, long = name.groups()
        subscript = (short or long or "").replace(" ", "")
        if command in _FUNCTIONS and not subscript:
            return self._applied(_FUNCTIONS[command])
        if command == "sqrt" and not subscript:
            return self._root()
        if command and command not in _LETTERS:
            raise UnreadableError
        return self._letter((command or letter) + subscript)

    def _letter(self, name: str) -> complex:
        """Without regard to case, like math-verify; what may be a constant has its value."""
        name = name.lower()
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        share = crc32(name.encode()) % 9973 / 9973
        return complex(self._lowest + self._width * share)

    def _root(self) -> complex:
        degree = self._bracketed() if self._peek() == "[" else 2
        if self._peek() == "{":
            return _positive(self._bracketed()) ** (1 / degree)
        digit = _DIGIT.match(self._text, self._at)
        if digit is None:
            raise UnreadableError
        self._at = digit.end()
        return complex(digit[1]) ** (1 / degree)

    def _applied(self, function: Callable[[complex], complex]) -> complex:
        exponent = _EXPONENT.match(self._text, self._at)
        if exponent:
            self._at = exponent.end()
        bare = self._peek() not in _BRACKETS
        value = function(self._bare_argument() if bare else self._bracketed())
        if self._peek() == "^":
            raise UnreadableError  # \sin(x)^2
        return value ** int(exponent[1] or exponent[2]) if exponent else value

    def _bare_argument(self) -> complex:
        r"""Read `2 x` of `\sin 2 x \cos x`; nothing that may or may not belong to it follows."""
        value = self._power()
        while _FACTOR.match(self._text, self._at) and not self._function_follows():
            if self._peek() in _BRACKETS:
                raise UnreadableError
            value = self._bounded(value * self._power())
        if self._peek() == "/":
            raise UnreadableError
        return value

    def _function_follows(self) -> bool:
        name = _NAME.match(self._text, self._at)
        return name is not None and name[1] in _FUNCTIONS
