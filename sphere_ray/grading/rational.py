r"""Exact value of a written rational number: `-1,234.50`, `1 1/2`, `\frac{2}{7^{2}}`, `3.8e35`.

Bounded in length, depth and bits, so that no text can make it slow. The value of any other text is
None, never a guess.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from sphere_ray.grading.evaluator import Evaluator, UnreadableError

MAX_CHARS = 400
_MAX_BITS = 20_000

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_NUMBER = re.compile(
    r"(?=\.?[0-9])(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+(?![0-9/^])|[0-9]*)"
    r"(?:\.(?P<decimals>[0-9]*))?(?:[eE](?P<exponent>[-+]?[0-9]{1,4}))?"
)
_MIXED = re.compile(
    r"(?P<sign>-?)\s*(?P<whole>[0-9]{1,300})"
    r"(?: (?P<a>[0-9]{1,300})/(?P<b>[0-9]{1,300})"
    r"|\s*\\frac\s*\{(?P<c>[0-9]{1,300})\}\s*\{(?P<d>[0-9]{1,300})\})"
)
_SHORT_FRAC = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])")


@dataclass(frozen=True, slots=True)
class Rational:
    """A value, and for a plain decimal how many significant digits and places were written."""

    value: Fraction
    digits: int = 0
    places: int = 0


def read_rational(text: str) -> Rational | None:
    """Return the exact value of `text`, None when it is no rational number within the bounds."""
    if _INTEGER.fullmatch(text):
        return Rational(Fraction(int(text)))
    if not text or len(text) > MAX_CHARS:
        return None
    if match := _NUMBER.fullmatch(text[1:].lstrip() if text[0] in "+-" else text):
        return _read_number(match, -1 if text[0] == "-" else 1)
    if mixed := _MIXED.fullmatch(text):
        return _mixed(mixed)
    try:
        return Rational(_Exact(long_fractions(text)).evaluate())
    except (UnreadableError, ZeroDivisionError):
        return None


def long_fractions(text: str) -> str:
    r"""`\frac12` as `\frac{1}{2}`."""
    return _SHORT_FRAC.sub(r"\\frac{\1}{\2}", text)


def _read_number(match: re.Match[str], sign: int = 1) -> Rational:
    whole = match["whole"].replace(",", "").replace(" ", "")
    decimals = match["decimals"] or ""
    exponent = int(match["exponent"] or 0)
    value = Fraction(sign * int(whole + decimals)) * Fraction(10) ** (exponent - len(decimals))
    digits = len((whole + decimals).lstrip("0")) if decimals else 0
    return Rational(value, digits, len(decimals) - exponent)


def _mixed(match: re.Match[str]) -> Rational | None:
    top, bottom = int(match["a"] or match["c"]), int(match["b"] or match["d"])
    if not 0 < top < bottom:
        return None
    value = int(match["whole"]) + Fraction(top, bottom)
    return Rational(-value if match["sign"] else value)


class _Exact(Evaluator[Fraction]):
    """The exact value of an expression of numbers; every operation is written."""

    def _atom(self) -> Fraction:
        for begin, end in ("()", "{}"):
            if self._peek() == begin:
                return self._group(begin, end)
        if self._accept("frac"):
            return self._frac()
        match = _NUMBER.match(self._text, self._at)
        if match is None:
            raise UnreadableError
        self._at = match.end()
        return self._bounded(_read_number(match).value)

    def _juxtaposed(self, *, after_division: bool) -> bool:  # noqa: ARG002
        return False

    def _bounded(self, value: Fraction) -> Fraction:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
            raise UnreadableError
        return value

    def _raise(self, base: Fraction, exponent: Fraction) -> Fraction:
        if exponent.denominator != 1:
            raise UnreadableError
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * abs(exponent.numerator) > _MAX_BITS:
            raise UnreadableError
        return Fraction(base**exponent.numerator)
