r"""Exact value of a written number: `-1,234.50`, `1 1/2`, `\frac{2}{7}`, `3.8 \times 10^{35}`.

Bounded in length and bits. The value of any other text is None, never a guess.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

PLACES = 6
"""Decimals are compared as rounded to so many places; below 0.1 to so many significant digits."""

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_POWER = r"10\s?\^\s?(?:([0-9])|\{\s?([-+]?[0-9]{1,3})\s?\})"
_NUMBER = re.compile(
    r"(?=\.?[0-9])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]{0,300})"
    rf"(?:\.([0-9]{{0,300}}))?(?:[eE]([-+]?[0-9]{{1,3}})|\s?(?:\\times|\\cdot|\*)\s?{_POWER})?"
)
_RATIO = re.compile(
    r"(?:([0-9]{1,300})\s?)?(?:\\frac\s?\{([^{}]{1,300})\}\s?\{([^{}]{1,300})\}"
    r"|(?:(?<=\s)|(?<![0-9]))([0-9.,]{1,300})\s?/\s?([0-9.,]{1,300}))"
)
_REPEATING = re.compile(
    r"([0-9]{0,9})\.([0-9]{0,99}?)"
    r"(?:\\(?:overline|bar|dot)\s?\{([0-9]{1,99})\}|([0-9]{1,9}?)\4+\s?\\ldots)"
)


@dataclass(frozen=True, slots=True)
class Rational:
    """A value, and whether it was written as a decimal, which may be rounded."""

    value: Fraction
    decimal: bool = False

    def equals(self, other: "Rational") -> bool:
        """Compare exactly, or as rounded where at least one of both is a decimal."""
        if self.value == other.value or not (self.decimal or other.decimal):
            return self.value == other.value
        return rounded(self.value) == rounded(other.value)


def rounded(value: Fraction) -> Fraction:
    """Round to PLACES decimals, a half away from zero; below 0.1 to PLACES significant digits."""
    places, size = PLACES, abs(value)
    if 0 < size < Fraction(1, 10):
        bits = size.denominator.bit_length() - size.numerator.bit_length()
        places += max(0, bits * 3 // 10 - 1)  # at most what is right, which the loop finds
        while size * 10 ** (places - PLACES + 1) < 1:
            places += 1
    whole = math.floor(size * 10**places + Fraction(1, 2))
    return Fraction(whole if value > 0 else -whole, 10**places)


def read_rational(text: str) -> Rational | None:
    """Return the exact value of `text`, None when it is no rational number within the bounds."""
    if _INTEGER.fullmatch(text):
        return Rational(Fraction(int(text)))
    found = _read(text[1:].lstrip() if text[:1] in {"-", "+"} else text)
    return Rational(-found.value, found.decimal) if found and text[0] == "-" else found


def _read(text: str) -> Rational | None:
    if match := _NUMBER.fullmatch(text):
        whole, decimals, *powers = match.groups()
        digits = int(re.sub("[ ,]", "", whole) + (decimals or "") or 0)
        power = int(next(filter(None, powers), 0)) - len(decimals or "")
        return Rational(digits * Fraction(10) ** power, bool(decimals))
    if match := re.fullmatch(_POWER, text):
        return Rational(Fraction(10) ** int(match[1] or match[2]))
    if match := _REPEATING.fullmatch(text):
        period, scale = match[3] or match[4], 10 ** len(match[2])
        tail = Fraction(int(period), (10 ** len(period) - 1) * scale)
        return Rational(Fraction(int(match[1] + match[2] or 0), scale) + tail)
    if match := _RATIO.fullmatch(text):
        return _ratio(match[1], match[2] or match[4], match[3] or match[5])
    return None


def _ratio(whole: str | None, top: str, bottom: str) -> Rational | None:
    above, below = read_rational(top.strip()), read_rational(bottom.strip())
    if not above or not below or not below.value:
        return None
    value = above.value / below.value
    if whole is None:
        return Rational(value, above.decimal or below.decimal)
    return Rational(int(whole) + value) if 0 < value < 1 else None
