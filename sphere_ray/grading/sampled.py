r"""Tells unequal formulas apart by their values at two points. Needs no sympy and no worker.

It reads numbers, letters with subscripts, `\frac`, `\sqrt`, powers, products without a sign and
`\sin x`, and gives every letter a fixed value. Equal formulas agree wherever both are defined, so
one disagreement proves them different. `f(x)` is read as a product on both sides. Ambiguous
notation (`1/2x`, `\sin x e^x`, `f(x)^2`, units) makes the comparison inconclusive.
"""

import cmath
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias
from zlib import crc32

from sphere_ray.grading.evaluator import Evaluator, UnreadableError
from sphere_ray.grading.exact import split_list
from sphere_ray.grading.rational import long_fractions

MAX_CHARS = 400
_MAX_PAIRS = 1024
_MAX_NESTING = 4
_LARGEST = 1e307
_RELATIVE, _ROUNDING = 1e-6, 1e-9
_POINTS = ((0.2, 0.7), (2.7, -1.5))
"""The values of letters at each point: a first value, and the width of the range from there on.

The widths have opposite signs, so that the letters are in opposite orders at the two points.
"""

_UNREAD = re.compile(
    r"[^-+*/^(){}\[\]_.A-Za-z0-9\\ ]"
    r"|(?<![\\A-Za-z])(?:[A-Za-z]{3}|[a-z][A-Za-z]|[A-Z][a-z])"  # words, units, dx
    r"|[0-9.]\s*\\frac"  # mixed numbers
    r"|\}\s*\{\s*d\s*[A-Za-z\\]"  # \frac{d}{d x}
    r"|\^\s*-"  # e^-2x
)
_EQUATION = re.compile(r"([A-Za-z](?:_(?:\w|\{\w+\}))?(?:\([\w, ]+\))?) ?= ?([^=]+)")
_SCIENTIFIC = re.compile(r"-?(?:[0-9]+[eE][0-9]{1,3}|[0-9]*\.[0-9]+[eE][-+]?[0-9]{1,3})")
_NUMBER = re.compile(r"\s*([0-9]{1,300}(?:\.[0-9]*)?|\.[0-9]+)(?![eE][-+]?[0-9])\s*")
_NAME = re.compile(
    r"\s*(?:\\([A-Za-z]+)|([A-Za-z]))(?:\s*_\s*(?:([A-Za-z0-9])|\{([A-Za-z0-9 ]{1,12})\}))?\s*"
)
_FACTOR = re.compile(r"\s*(?:\\(?!cdot|times|div)[A-Za-z]|[A-Za-z(\[{]|(?P<digit>[0-9.]))")
_DIGIT = re.compile(r"\s*([0-9])\s*")
_EXPONENT = re.compile(r"\s*\^\s*(?:([2-9])(?![0-9])|\{\s*([2-9])\s*\})\s*")
_THOUSANDS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_GREEK = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon
    phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega pi
"""
_LETTERS = frozenset(_GREEK.split())
_CONSTANTS = {"e": complex(math.e), "i": 1j, "pi": complex(math.pi), "gamma": 0.57721566490153286}
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
    "ln": cmath.log,
}
_ARGUMENT_ENDS = re.compile(rf"\s*(?:$|[-+)}}\]]|\\(?:{'|'.join(_FUNCTIONS)})(?![A-Za-z]))")


class _Sample(NamedTuple):
    """A value, and the largest size on the way to it, which bounds its rounding error."""

    value: complex
    peak: float


_Samples: TypeAlias = tuple[_Sample | None, ...]
_Item: TypeAlias = tuple[str, _Samples]
"""The left side of `y = ...`, if there is one, and the values at all points."""

_UNKNOWN: _Samples = (None,) * len(_POINTS)


def certainly_differ(left: str, right: str) -> bool:
    """Whether two normalised answers differ wherever both are defined. Symmetric.

    Lists, tuples and sets of any nesting differ if one of them has a value that the other lacks.
    `y = ...` stands for its right side; `y = ...` and `x = ...` are not compared.
    """
    ours, others = _items(left), _items(right)
    if len(ours) * len(others) > _MAX_PAIRS:
        return False
    return _lacks(ours, others) or _lacks(others, ours)


def _lacks(items: list[_Item], others: list[_Item]) -> bool:
    return any(all(_unequal(item, other) for other in others) for item in items)


def _unequal(item: _Item, other: _Item) -> bool:
    (name, ours), (other_name, theirs) = item, other
    if name and other_name and name != other_name:
        return False
    apart = [_apart(a, b) for a, b in zip(ours, theirs, strict=True) if a and b]
    return bool(apart) and all(apart)


def _apart(left: _Sample, right: _Sample) -> bool:
    noise = _ROUNDING * max(left.peak, right.peak)
    size = max(abs(left.value), abs(right.value))
    return abs(left.value - right.value) > _RELATIVE * size + noise


def _items(text: str) -> list[_Item]:
    found = list[_Item]()
    for part in dict.fromkeys(_flat(text, 0)):
        match = _EQUATION.fullmatch(part)
        name, value = (match[1].replace(" ", ""), match[2]) if match else ("", part)
        found.append((name, _samples(value) if len(value) <= MAX_CHARS else _UNKNOWN))
    return found


def _flat(text: str, nesting: int) -> list[str]:
    """The items of a list and of the lists in it, or `text` itself when it is no list."""
    text = text.strip()
    listed = "," in text and len(text) <= MAX_CHARS and not _THOUSANDS.search(text)
    parts = split_list(text)[1] if listed and nesting <= _MAX_NESTING else []
    if len(parts) < 2:
        return [text]
    return [item for part in parts for item in _flat(part, nesting + 1)]


@lru_cache(maxsize=4096)
def _samples(text: str) -> _Samples:
    """The value at each point; None where the text has none or cannot be read."""
    if _SCIENTIFIC.fullmatch(text):
        value = float(text)
        return (_Sample(complex(value), 0.0),) * len(_POINTS) if value < _LARGEST else _UNKNOWN
    if _UNREAD.search(text):
        return _UNKNOWN
    return tuple(_sample(long_fractions(text), *point) for point in _POINTS)


def _sample(text: str, begin: float, width: float) -> _Sample | None:
    evaluator = _AtPoint(text, begin, width)
    try:
        return _Sample(evaluator.evaluate(), evaluator.peak)
    except (UnreadableError, ArithmeticError, ValueError):
        return None


class _AtPoint(Evaluator[complex]):
    """Evaluates in floating point, with a value for each letter and products without a sign."""

    def __init__(self, text: str, begin: float, width: float) -> None:
        super().__init__(text)
        self._begin, self._width = begin, width
        self._call_at = -1  # where a bracket follows the last letter, as in f(x)
        self.peak = 0.0

    def _bounded(self, value: complex) -> complex:
        size = abs(value)
        if not size < _LARGEST:
            raise UnreadableError
        self.peak = max(self.peak, size)
        return value

    def _raise(self, base: complex, exponent: complex) -> complex:
        whole = not exponent.imag and exponent.real.is_integer()
        return self._bounded((base if whole else self._positive(base)) ** exponent)

    def _positive(self, value: complex) -> complex:
        """Refuse what has no undisputed root or logarithm, or may be zero but for rounding."""
        if value.imag or value.real < 0 or 0 < value.real < _ROUNDING * self.peak:
            raise UnreadableError
        return value

    def _juxtaposed(self, *, after_division: bool) -> bool:
        factor = _FACTOR.match(self._text, self._at)
        if factor and (after_division or factor["digit"] or self._peek() == "{"):
            raise UnreadableError  # 1/2x, x 2, 3 {cm}
        return factor is not None

    def _atom(self) -> complex:
        if self._peek() in _BRACKETS:
            called = self._at == self._call_at
            value = self._bracketed()
            if called and self._peek() == "^":
                raise UnreadableError  # f(x)^2
            return value
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
            return self._applied(command)
        if command == "sqrt" and not subscript:
            return self._root()
        if command and command not in _LETTERS:
            raise UnreadableError
        if self._peek() in ("(", "["):
            if command:
                raise UnreadableError  # \Gamma(x)
            self._call_at = self._at
        return self._letter((command or letter) + subscript)

    def _letter(self, name: str) -> complex:
        """Ignore case, as math-verify does; a letter that may be a constant has its value."""
        name = name.lower()
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        return complex(self._begin + self._width * (crc32(name.encode()) % 9973) / 9973)

    def _root(self) -> complex:
        degree = self._bracketed() if self._peek() == "[" else 2
        if self._peek() == "{":
            return self._positive(self._bracketed()) ** (1 / degree)
        digit = _DIGIT.match(self._text, self._at)
        if digit is None:
            raise UnreadableError
        self._at = digit.end()
        return complex(digit[1]) ** (1 / degree)

    def _applied(self, function: str) -> complex:
        exponent = _EXPONENT.match(self._text, self._at)
        if exponent:
            self._at = exponent.end()
        bare = self._peek() not in _BRACKETS
        argument = self._bare_argument(function) if bare else self._bracketed()
        if not _ARGUMENT_ENDS.match(self._text, self._at):
            raise UnreadableError  # \sin x e^x, \sin(x)^2, \sin x / 2
        value = _FUNCTIONS[function](self._positive(argument) if function == "ln" else argument)
        return value ** int(exponent[1] or exponent[2]) if exponent else value

    def _bare_argument(self, function: str) -> complex:
        r"""Read the `2 \omega t` of `\sin 2 \omega t`: a number and letters; one factor for ln."""
        factors = list[complex]()
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            factors.append(complex(number[1]))
        while (name := _NAME.match(self._text, self._at)) and name[1] not in _FUNCTIONS:
            if name[1] in {"sqrt", "frac", "pi"} or name[2] in {"e", "i"}:
                raise UnreadableError
            factors.append(self._named())
        if not factors or (function == "ln" and len(factors) > 1):
            raise UnreadableError
        return self._bounded(math.prod(factors))
