r"""Splits words off numbers, and tells whether two units can mean the same.

A missing unit agrees with any unit. Nothing is converted: 1 m does not match 100 cm.
"""

import re
from fractions import Fraction

PERCENT = "percent"

_QUANTITY = re.compile(
    r"(?P<value>.*?[0-9)}\]!]|.*?[A-Za-z](?<!\\cdot)(?<!\\times)(?=\s?\\text)|.*?\\pi(?=\s))"
    r"(?P<tail>(?=.)(?!\s?(?:[-*_.]|\\cdot|\\text\s?\{\w*\}\s?_|\^(?!\\circ|\s?\{\s?\\prime)))"
    r"(?:(?<=[0-9])\s\{\s?[A-Za-z]+\}|\s?\\mu\s?\\text\s?\{[^{}]{1,3}\}(?=$|\s?[/^]))?"
    r"(?:\\text\s?\{[^{}]*\}|[\^_]\s?\{?-?[0-9]\}?|\^\\circ|\\cdot|\\\$"
    r"|\^\s?\{[\\prime ]*\}|[A-Za-z%/.*()' \-]|[\u4e00-\u9fff])*)"
)
_PREFIX = re.compile(r"(-?)\s?(\\\$|(?:USD|EUR|GBP|INR|JPY|Rs)\b\.?)\s?(?=-?[0-9.])")
_MARKED = re.compile(r"\\text\s?\{([^{}]*)\}|\{\s?([A-Za-z]+)\}")
_WORD = re.compile(r"[A-Za-z]+|[\u4e00-\u9fff]")
_BARE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]+")


_CHANGING = """
    half halves third thirds fourth fourths quarter quarters fifth fifths sixth sixths seventh
    sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths
    millionth millionths billionth billionths tens score gross base
    squared cubed factorial choose divided multiplied times plus minus over mod modulo remainder
    power root reciprocal inverse point zero one two three four five six seven eight nine ten eleven
    twelve twenty thirty forty fifty double twice triple below under negative less than not wrong
    incorrect false or to through between from if out nan \u534a \u5206 \u500d \u5341 \u6253
"""
"""Words behind a number that change its value, or say that it is not the answer."""

_SHORT = """
    mm cm km ft yd mi in mg kg lb oz ml mL dl kL kW MW Hz kJ MJ eV Pa hr am pm AM PM sq cc of a
"""
"""Words that are no product of variables, though they are short."""

_LETTERS = frozenset("mghsLJNWKA")
_CHANGING_WORDS, _SHORT_WORDS = frozenset(_CHANGING.split()), frozenset(_SHORT.split())
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
           "trillion": 10**12, "dozen": 12, "lakh": 10**5, "crore": 10**7, "\u767e": 10**2,
           "\u5343": 10**3, "\u4e07": 10**4, "\u4ebf": 10**8}  # fmt: skip
_UNITS = """
    percent % percentage pct, dollar $ usd USD buck, cent, euro EUR, pound lb lbs GBP, rupee INR Rs,
    yen JPY, degree deg, meter m metre, centimeter cm centimetre, millimeter mm millimetre,
    kilometer km kilometre, foot ft feet, inch in inches, yard yd, mile mi, gram g, milligram mg,
    kilogram kg kilo, ounce oz, liter l L litre, milliliter ml mL millilitre, hour h hr hrs,
    minute min mins, second s sec, mile/hour mph, kilometer/hour kmh kph kmph, electronvolt eV,
    mole mol
"""
_NAMES = [names.split() for names in _UNITS.split(",")]
_ALIASES = {alias: names[0] for names in _NAMES for alias in names[1:]}
_MEASURES = {names[0] for names in _NAMES}
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$", " dollar "), (r"%", " percent "), (r"\^\\circ", " degree "), (r"\\mu", " micro "),
        (r"\\text\s?\{([^{}]*)\}|\{\s?([A-Za-z]+)\}", r" \1\2 "), (r"[(){}*]|\\cdot|\\", " "),
        (r"\s+(?:per|an?)\s+", "/"), (r"\b(?:square|sq\.?)\s+([A-Za-z]+)", r"\1^2"),
        (r"\bcubic\s+([A-Za-z]+)", r"\1^3"), (r"\s*([/^])\s*", r"\1"),
    )
)  # fmt: skip


def split_unit(text: str) -> tuple[str, Fraction, str]:
    r"""Split `18 red apples` into `18`, 1 and `red apple`, `2 million` into `2`, a million and "".

    Letters that may be algebra stay with the value: `3 n`, `2 \sin x`, `\frac{37}{4} m`.
    """
    currency = ""
    if match := _PREFIX.match(text):
        currency = _canonical(match[2])
        text = match[1] + text[match.end() :]
    match = _QUANTITY.fullmatch(text)
    if match is None or not _is_unit(match["tail"]):
        return text, Fraction(1), currency
    unit = _canonical(match["tail"])
    first, _, rest = unit.partition(" ")
    scale = Fraction(_SCALES.get(first, 1))
    return match["value"].strip(), scale, (rest if first in _SCALES else unit) or currency


def compatible(left: str, right: str) -> bool:
    """Whether two units can mean the same: one is missing, or they share a word like `apple`."""
    if not left or not right or left == right:
        return True
    ours, theirs = set(_WORD.findall(left)), set(_WORD.findall(right))
    return bool(ours & theirs) and not (ours | theirs) & _MEASURES and "micro" not in ours ^ theirs


def _is_unit(tail: str) -> bool:
    words = _BARE_WORD.findall(tail) + [word for word in _WORD.findall(tail) if not word.isascii()]
    if not words:
        return any(sign in tail for sign in ("%", "$", "\\circ", "prime"))
    bare = _MARKED.sub(" ", tail)
    attached, derived = bare[:1].isalpha(), "/" in tail or "^" in tail
    return not _CHANGING_WORDS & {word.lower() for word in words} and all(
        # Two letters may be variables, and so may three right behind the number.
        word in _SHORT_WORDS
        or len(word) >= 3 + attached
        or (derived and not attached and word in _LETTERS)
        for word in _BARE_WORD.findall(bare)
    )


def _canonical(tail: str) -> str:
    for pattern, replacement in _REWRITES:
        tail = pattern.sub(replacement, tail)
    return _WORD.sub(lambda word: _singular(word[0]), " ".join(tail.split())).strip(" .")


def _singular(word: str) -> str:
    if word in _ALIASES:
        return _ALIASES[word]
    lower = word.lower() if len(word) > 3 else word
    if len(lower) > 3 and lower.endswith("s") and not lower.endswith("ss"):
        lower = lower[:-1]
    return _ALIASES.get(lower, lower)
