r"""Exact value of a written rational number: `-1,234.50`, `1 1/2`, `\frac{2}{7^{2}}`, `3.8e35`.

A small recursive-descent evaluator over fractions, bounded in length, depth and bits, so that no
text can make it slow. Whatever it does not know for sure is None, never a guess.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 400
_MAX_BITS = 20_000
_MAX_DEPTH = 30

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_NUMBER = re.compile(
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+(?![0-9/^])|[0-9]*)"
    r"(?:\.(?P<decimals>[0-9]*))?(?:[eE](?P<exponent>[-+]?[0-9]{1,4}))?"
)
_TOKEN = re.compile(r"\s*(?:\\(frac|cdot|times|div)(?![a-zA-Z])|([-+*/^(){}]))\s*")
_MIXED = re.compile(
    r"(?P<sign>-?)\s*(?P<whole>[0-9]{1,300})"
    r"(?: (?P<a>[0-9]{1,300})/(?P<b>[0-9]{1,300})"
    r"|\s*\\frac\s*\{(?P<c>[0-9]{1,300})\}\s*\{(?P<d>[0-9]{1,300})\})"
)
_SHORT_FRAC = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])")
_TIMES = {"*", "cdot", "times"}
_OVER = {"/", "div"}


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
    negative = text[0] == "-"
    decimal = _decimal(text[1:].lstrip() if text[0] in "+-" else text)
    if decimal is not None:
        return Rational(-decimal.value, decimal.digits, decimal.places) if negative else decimal
    if mixed := _MIXED.fullmatch(text):
        return _mixed(mixed)
    try:
        return Rational(_Evaluator(_SHORT_FRAC.sub(r"\\frac{\1}{\2}", text)).evaluate())
    except (_UnreadableError, ZeroDivisionError):
        return None


def _decimal(text: str) -> Rational | None:
    match = _NUMBER.fullmatch(text)
    if match is None or not (match["whole"] or match["decimals"]):
        return None
    return _read_number(match)


def _read_number(match: re.Match[str]) -> Rational:
    whole = match["whole"].replace(",", "").replace(" ", "")
    decimals = match["decimals"] or ""
    exponent = int(match["exponent"] or 0)
    value = Fraction(int(whole + decimals)) * Fraction(10) ** (exponent - len(decimals))
    digits = len((whole + decimals).lstrip("0")) if decimals else 0
    return Rational(value, digits, len(decimals) - exponent)


def _mixed(match: re.Match[str]) -> Rational | None:
    top, bottom = int(match["a"] or match["c"]), int(match["b"] or match["d"])
    if not 0 < top < bottom:
        return None
    value = int(match["whole"]) + Fraction(top, bottom)
    return Rational(-value if match["sign"] else value)


class _UnreadableError(Exception):
    """The text is not a rational number within the bounds."""


class _Evaluator:
    """sum = term {+- term}; term = power {*/ power}; power = [+-] atom [^ power]."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def evaluate(self) -> Fraction:
        value = self._sum()
        if self._at != len(self._text):
            raise _UnreadableError
        return value

    def _peek(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        return (match[1] or match[2]) if match else ""

    def _accept(self, *wanted: str) -> str:
        match = _TOKEN.match(self._text, self._at)
        token = (match[1] or match[2]) if match else ""
        if match and token in wanted:
            self._at = match.end()
            return token
        return ""

    def _expect(self, wanted: str) -> None:
        if not self._accept(wanted):
            raise _UnreadableError

    def _sum(self) -> Fraction:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadableError
        value = self._term()
        while sign := self._accept("+", "-"):
            term = self._term()
            value = _bounded(value + term if sign == "+" else value - term)
        self._depth -= 1
        return value

    def _term(self) -> Fraction:
        value = self._signed()
        while operator := self._accept(*_TIMES, *_OVER):
            factor = self._signed()
            value = _bounded(value * factor if operator in _TIMES else value / factor)
        return value

    def _signed(self) -> Fraction:
        negative = False
        while sign := self._accept("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Fraction:
        base = self._atom()
        if not self._accept("^"):
            return base
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadableError
        exponent = self._signed() if self._peek() != "{" else self._group("{", "}")
        self._depth -= 1
        return _raise(base, exponent)

    def _group(self, begin: str, end: str) -> Fraction:
        self._expect(begin)
        value = self._sum()
        self._expect(end)
        return value

    def _atom(self) -> Fraction:
        token = self._peek()
        if token == "(":
            return self._group("(", ")")
        if token == "{":
            return self._group("{", "}")
        if self._accept("frac"):
            top = self._group("{", "}")
            return _bounded(top / self._group("{", "}"))
        match = _NUMBER.match(self._text, self._at)
        if match is None or not (match["whole"] or match["decimals"]):
            raise _UnreadableError
        self._at = match.end()
        return _bounded(_read_number(match).value)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > _MAX_BITS or value.denominator.bit_length() > _MAX_BITS:
        raise _UnreadableError
    return value


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise _UnreadableError
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(exponent.numerator) > _MAX_BITS:
        raise _UnreadableError
    return Fraction(base**exponent.numerator)
