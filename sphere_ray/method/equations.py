"""Equations of plain arithmetic in a text, and whether one of them is false.

Only what can be read in one way is judged. An equation with units inside, variables, brackets,
powers or percent is left alone, so that no true statement is called false.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

_NUMBER = r"\$?(?>\d{1,3}(?:,\d{3})+(?!\d)|\d{1,15})(?:\.\d{1,9}(?!\d))?"
_TIMES = ("*", "\u00d7", "\u00b7", "\\times", "\\cdot", "x")
_OVER = ("/", "\u00f7", "\\div")
_MINUS = ("-", "\u2212")
_SIGNS = "".join(sign for sign in ("+", *_TIMES, *_OVER, *_MINUS) if not sign[-1].isalpha())
_OPERATOR = rf"(?:\s*(?:[{re.escape(_SIGNS)}]|\\times|\\cdot|\\div)|\s+x(?=\s))"
_TERMS = rf"{_NUMBER}(?:{_OPERATOR}\s*{_NUMBER})"
_EQUATION = re.compile(
    rf"(?<![\w.,:^$\\-])(?P<left>(?>{_TERMS}{{1,20}}))\s*=\s*"
    rf"(?P<right>(?>[-\u2212]?{_TERMS}{{0,20}}))"
    # The number must end here: no unit glued to it, no mixed number, no further operator.
    rf"(?![\w^%!\u00b0({{\\]|[.,:]\d|\s*[{re.escape(_SIGNS)}^%(\\]|\s+x\s|\s*\d)"
)
_TOKEN = re.compile(rf"{_NUMBER}|\\[a-z]+|\S")
# What may stand before an equation: nothing, punctuation, or a word that asks for no reckoning.
_OPENING = re.compile(r"(?:^|[,;.!?=<\"']|:\s|(?<![\w)])\(|\n|\b(?P<word>[A-Za-z]{2,}))\s*$")
_RECKONS = re.compile(
    r"of|by|times|plus|minus|over|per|than|negative|root|sqrt|cube|square|half|twice|double|triple"
    r"|third|quarter|log|ln|sin|cos|tan|exp|abs|max|min|gcd|lcm",
    re.IGNORECASE,
)
_OTHER_ARITHMETIC = re.compile(
    r"\b(?:mod|modulo|base|binary|octal|hex|hexadecimal|o'?clock|noon|midnight|[ap]\.?m)\b",
    re.IGNORECASE,
)


class Equation(NamedTuple):
    """An equation that was found in a text: where it begins, how it reads, whether it holds."""

    start: int
    text: str
    holds: bool


def equations(text: str) -> Iterator[Equation]:
    """Check the equations of numbers in a text, in order.

    `+ - * /` are read with their precedence and computed as fractions. A result that cannot be
    written with the decimals it is given with may be off by less than one unit of its last place,
    because it was rounded. A text about another arithmetic (modulo, base 8, o'clock) has none.
    """
    if is_of_other_arithmetic(text):
        return
    for found in _EQUATION.finditer(text):
        if _opens(text[max(0, found.start() - 40) : found.start()]):
            false = _is_false(found["left"], found["right"])
            yield Equation(found.start(), found[0], not false)


def is_of_other_arithmetic(text: str) -> bool:
    """Whether a text speaks of modulo, another base, or times of day, so that 11 + 2 may be 1."""
    return _OTHER_ARITHMETIC.search(text) is not None


def false_equation(text: str) -> str | None:
    """Return the first of the `equations` that does not hold; None if there is none."""
    return next((found.text for found in equations(text) if not found.holds), None)


def _opens(before: str) -> bool:
    found = _OPENING.search(before)
    return found is not None and not (found["word"] and _RECKONS.fullmatch(found["word"]))


def _is_false(left: str, right: str) -> bool:
    try:
        one, other = _value(left), _value(right)
    except ZeroDivisionError:
        return False
    if one == other:
        return False
    rounded = any("." in side or any(sign in side for sign in _OVER) for side in (left, right))
    number = re.fullmatch(rf"[-\u2212]?{_NUMBER}", right)
    if number is None:
        return not rounded
    unit = Fraction(1, 10 ** len(right.partition(".")[2]))
    return (one / unit).denominator == 1 or abs(one - other) >= unit


def _value(terms: str) -> Fraction:
    """The value of numbers and operators in turn; a sign may come first."""
    tokens = _TOKEN.findall(terms)
    sign = -1 if tokens[0] in _MINUS else 1
    if sign < 0:
        del tokens[0]
    total, product = Fraction(0), sign * _number(tokens[0])
    for operator, token in zip(tokens[1::2], tokens[2::2], strict=True):
        number = _number(token)
        if operator in _TIMES:
            product *= number
        elif operator in _OVER:
            product /= number
        else:
            total += product
            product = -number if operator in _MINUS else number
    return total + product


def _number(token: str) -> Fraction:
    return Fraction(token.strip("$").replace(",", ""))
