r"""Splits units off numbers, and tells whether two units can mean the same.

A missing unit agrees with any unit. Nothing is converted: 1 m does not match 100 cm.
"""

import re

_START = re.compile(
    r"\s*/?\s*(?:\\(?:text|mathrm|operatorname|mu)(?![a-zA-Z])|%"
    r"|\{ ?(?=[A-Za-z]+\})|(?<![\\A-Za-z])(?![eE][-+]?[0-9])[A-Za-z])"
)
_WORD = re.compile(r"[A-Za-z]+")
_MARKUP = re.compile(r"\\(?:text|mathrm|operatorname)(?![a-zA-Z])|[{}~]")
_MICRO = re.compile(r"\\mu(?![a-zA-Z])\s*")
_ALLOWED = re.compile(r"(?:[A-Za-z/%.*() \-]|\\cdot|\^\s*-?[0-9]+)*")
_EXPLICIT = re.compile(
    r"\s*/?\s*\\(?:text|mathrm|operatorname)\s*\{"
    r"|\s*\\mu\s*\\(?:text|mathrm)\s*\{[^{}]{1,6}\}(?:$|\s*[/^])|\s*\{ [msgJNVWKL]\}"
)
"""A unit marked as text, or `{~s}`: some golds have lost the `\\mathrm` before it."""
_BRACED = re.compile(r"\{ ?([A-Za-z]+)\}")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CALCULUS = _words(
    """
    pi sqrt sin cos tan cot sec csc log ln exp and or not to times plus minus over mod than theta
    alpha beta gamma lambda omega sigma infty inf nan half third quarter if from between
    """
)
_SHORT = _words(
    """
    mm cm km ft yd mi in mg kg lb lbs oz ml mL dl kL kW MW Hz kHz MHz kJ MJ eV keV MeV Pa kPa mol
    hr hrs min mins sec ms mph kmh kph am pm AM PM usd USD rs Rs day days year cups cup egg eggs
    men man cat cats dog dogs pig pigs cow cows hen hens bag bags box jar jars can cans pen pens
    toy toys car cars bus hat hats pie pies kid kids ant ants bee bees set sets way ways page
    """
)
_ALIASES = {
    alias: name
    for name, aliases in {
        "dollar": "usd buck",
        "cent": "cents",
        "degree": "deg",
        "meter": "m metre",
        "centimeter": "cm centimetre",
        "millimeter": "mm millimetre",
        "kilometer": "km kilometre",
        "foot": "ft feet",
        "inch": "in inches",
        "yard": "yd",
        "mile": "mi",
        "gram": "g",
        "kilogram": "kg kilo",
        "milligram": "mg",
        "pound": "lb lbs",
        "ounce": "oz",
        "liter": "l L litre",
        "milliliter": "ml mL millilitre",
        "hour": "h hr hrs",
        "minute": "min mins",
        "second": "s sec",
        "arcsecond": "arcsec",
        "electronvolt": "eV",
        "mole": "mol",
        "person": "people persons",
        "man": "men",
        "woman": "women",
        "child": "children",
    }.items()
    for alias in aliases.split()
}
_NAMES = _words("volt watt joule newton pascal hertz kelvin ampere coulomb ohm tesla farad")
_MEASURES = frozenset(_ALIASES.values()) - {"person", "man", "woman", "child"}
_POWERS = ((re.compile(r"\b(?:square|sq\.?)\s+([A-Za-z]+)"), r"\1^2"),
           (re.compile(r"\bcubic\s+([A-Za-z]+)"), r"\1^3"),
           (re.compile(r"\s+per\s+"), "/"))  # fmt: skip

PERCENT = "percent"


def split_unit(text: str) -> tuple[str, str] | None:
    r"""Split `18 apples` into `18` and the unit `apple`; ("...", "") without a unit.

    None when the letters behind the number may be algebra: `3 n`, `2 \sin x`, `\frac{37}{4} m`.
    """
    start = _START.search(text)
    if start is None:
        return text, ""
    if start.start() == 0:
        return None
    tail = text[start.start() :]
    unit = _canonical(tail) if _is_unit(tail) else None
    return None if unit is None else (text[: start.start()].rstrip(), unit)


def compatible(left: str, right: str) -> bool:
    """Whether two units can mean the same: one is missing, or they share a word like `apple`."""
    if not left or not right or left == right:
        return True
    if not (left + right).replace(" ", "").isalpha():
        return False
    left_words, right_words = set(left.split()), set(right.split())
    if "micro" in left_words ^ right_words:
        return False
    if (left_words | right_words) & (_MEASURES | {PERCENT}):
        return False
    return bool(left_words & right_words)


def _is_unit(tail: str) -> bool:
    explicit = _EXPLICIT.match(tail) is not None
    plain = _plain(tail)
    if not _ALLOWED.fullmatch(plain):
        return False
    if plain.strip(" .") == "%":
        return True
    words = _WORD.findall(plain)
    if not words or _CALCULUS & {word.lower() for word in _without_second(words)}:
        return False
    if explicit or "%" in plain:
        return True
    if braced := _BRACED.match(tail):
        return braced[1] in _SHORT or _singular(braced[1]) in _MEASURES | _NAMES
    # Bare letters are algebra unless the first word is a unit or long enough to be a noun.
    noun = words[0] in _SHORT or (len(words[0]) > 3 and bool(set(words[0].lower()) & set("aeiou")))
    return noun and all(len(word) > 1 or word == "a" for word in words[1:])


def _without_second(words: list[str]) -> list[str]:
    """Drop a final `sec`, which is a second; elsewhere it is the secant."""
    return words[:-1] if words[-1] == "sec" else words


def _plain(tail: str) -> str:
    return _MARKUP.sub(" ", _MICRO.sub("micro ", tail))


def _canonical(tail: str) -> str:
    plain = " ".join(_plain(tail).replace("\\cdot", " ").replace("%", PERCENT).split())
    for pattern, replacement in _POWERS:
        plain = pattern.sub(replacement, plain)
    plain = re.sub(r"\s*([/^])\s*", r"\1", plain.strip(" ."))
    return _WORD.sub(lambda match: _singular(match.group()), plain)


def _singular(word: str) -> str:
    if word in _ALIASES:
        return _ALIASES[word]
    lower = word.lower() if len(word) > 3 else word
    if len(lower) > 3 and lower.endswith("s") and not lower.endswith("ss"):
        lower = lower[:-1]
    return "percent" if lower in {"percentage", "pct"} else _ALIASES.get(lower, lower)
