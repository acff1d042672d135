r"""The fast path: numbers, and lists and tuples of numbers, compared exactly. No sympy.

Policies, each of them tested:

* `x%` is x/100. When x > 1 the sign may also be dropped like a unit. So gold 50% accepts 50%, 0.5
  and 50, and gold 50 accepts 50%; but 0.5% and 0.5 differ, since both are common.
* Decimals are exact (20000 is not 20001, 4.49 is not 4.5), except that a decimal of at least
  six significant digits stands for a fraction which rounds or truncates to it (1/3 and 0.333333;
  but not 101001/101 and 1000.00, a whole number).
* A missing unit agrees with any unit. Two different units never agree: nothing is converted.
* Order counts in `(a, b)` and `[a, b]`, but not in `a, b` and `\{a, b\}`. Different brackets never
  agree.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from sphere_ray.grading.normalise import MAX_CHARS, same_text
from sphere_ray.grading.rational import Rational, read_rational
from sphere_ray.grading.units import PERCENT, compatible, split_unit

_MIN_DIGITS = 6
_MAX_NESTING = 4
_ASSIGNMENT = re.compile(r"([A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,8}\}))?)\s*=\s*")
_CURRENCY = re.compile(
    r"(-?)\s*(\\\$|[\u20ac\u00a3\u00a5\u20b9])\s*|\s*(\\\$|[\u20ac\u00a3\u20b9])$"
)
_CURRENCY_NAMES = {"\\$": "dollar", "\u20ac": "euro", "\u00a3": "pound sterling",
                   "\u00a5": "yen", "\u20b9": "rupee"}  # fmt: skip
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
           "trillion": 10**12}  # fmt: skip
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}"}
_BRACKET = re.compile(r"\\[{}]|[()\[\]{},;]")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+")
_DIGIT = re.compile(r"[0-9]")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A rational number with its unit."""

    number: Rational
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    r"""Numbers with their opening bracket (`(`, `[`, `\{`), which is empty if there is none."""

    bracket: str
    items: "tuple[Quantity | Group, ...]"


Value = Quantity | Group


def compare_exactly(answer: str, gold: str) -> bool | None:
    """Compare two normalised answers; None when this needs algebra. Symmetric."""
    if same_text(answer, gold):
        return True
    readings = _readings(answer)
    others = _readings(gold) if readings else []
    if not readings or not others:
        return None
    return any(_equal(left, right) for left in readings for right in others)


def _readings(text: str) -> list[Value]:
    """All that `text` can mean: `123,456` is a number and may be a list of two."""
    if len(text) > MAX_CHARS or not _DIGIT.search(text):
        return []
    body = _without_name(text)
    value = None if body is None else _read(body, 0)
    if body is None or value is None:
        return []
    if _THOUSANDS.fullmatch(body):
        listed = _read_items("", body.split(","), 0)
        return [value, listed] if listed else [value]
    return [value]


def _without_name(text: str) -> str | None:
    """Drop the name from `x = 2, x = 3`; None when there are several names."""
    if "=" not in text:
        return text
    names: set[str] = set()
    parts = []
    for part in text.split(","):
        match = _ASSIGNMENT.match(part.strip())
        names.add(match.group(1) if match else "")
        parts.append(part.strip()[match.end() :] if match else part)
    return None if len(names) > 1 else ",".join(parts)


def _read(text: str, nesting: int) -> Value | None:
    text = text.strip()
    if nesting > _MAX_NESTING or not text:
        return None
    if single := _read_quantity(text):
        return single
    bracket, parts = split_list(text)
    if not bracket and len(parts) == 1:
        return _read_plus_minus(text[3:], nesting) if text.startswith(r"\pm") else None
    return _read_items(bracket, parts, nesting)


def _read_plus_minus(text: str, nesting: int) -> Value | None:
    value = _read(text, nesting + 1)
    if not isinstance(value, Quantity):
        return None
    number = value.number
    opposite = Rational(-number.value, number.digits, number.places)
    return Group("", (value, Quantity(opposite, value.unit)))


def _read_items(bracket: str, parts: list[str], nesting: int) -> Value | None:
    items = [item for part in parts if (item := _read(part, nesting + 1))]
    if not items or len(items) < len(parts):
        return None
    return items[0] if len(items) == 1 and bracket != "[" else Group(bracket, tuple(items))


def split_list(text: str) -> tuple[str, list[str]]:
    r"""Split `a, b` or `(a, b)` into the opening bracket ("" for none) and the items.

    Semicolons separate as commas do. There are no items when brackets do not match.
    """
    parts = _split(text)
    if len(parts) == 1:
        for opening, closing in _CLOSING.items():
            if text.startswith(opening) and text.endswith(closing):
                return opening, _split(text[len(opening) : -len(closing)])
    return "", parts


def _split(text: str) -> list[str]:
    parts, begin = [], 0
    closers: list[str] = []
    for match in _BRACKET.finditer(text):
        token = match.group()
        if token in ",;":
            if not closers:
                parts.append(text[begin : match.start()])
                begin = match.end()
        elif token in "([{" or token == "\\{":
            closers.append({"{": "}", **_CLOSING}[token])
        elif not closers or closers.pop() != token:
            return []
    return [] if closers else [*parts, text[begin:]]


def _read_quantity(text: str) -> Quantity | None:
    number = read_rational(text)
    if number is not None:
        return Quantity(number)
    currency = ""
    if match := _CURRENCY.search(text):
        symbol = match.group(2) or match.group(3)
        currency = _CURRENCY_NAMES[symbol]
        text = text[: match.start()] + (match.group(1) or "") + text[match.end() :]
    split = split_unit(text)
    if split is None or (currency and split[1] and not compatible(currency, split[1])):
        return None
    number = read_rational(split[0].strip())
    return None if number is None else _scaled(number, split[1] or currency)


def _scaled(number: Rational, unit: str) -> Quantity:
    first, _, rest = unit.partition(" ")
    scale = _SCALES.get(first)
    return Quantity(Rational(number.value * scale), rest) if scale else Quantity(number, unit)


def _equal(left: Value, right: Value) -> bool:
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        return _equal_quantities(left, right)
    return isinstance(left, Group) and isinstance(right, Group) and _equal_groups(left, right)


def _equal_groups(left: Group, right: Group) -> bool:
    brackets = {left.bracket, right.bracket} - {""}
    if len(brackets) > 1 or len(left.items) != len(right.items):
        return False
    ordered = bool(brackets & {"(", "["})
    left_items = left.items if ordered else sorted(left.items, key=_sort_key)
    right_items = right.items if ordered else sorted(right.items, key=_sort_key)
    return all(_equal(a, b) for a, b in zip(left_items, right_items, strict=True))


def _sort_key(value: Value) -> tuple[Fraction, ...]:
    if isinstance(value, Quantity):
        return (value.number.value,)
    return tuple(part for item in value.items for part in _sort_key(item))


def _equal_quantities(left: Quantity, right: Quantity) -> bool:
    left_percent, right_percent = _is_percent(left), _is_percent(right)
    if left_percent == right_percent:
        return compatible(left.unit, right.unit) and _equal_numbers(left.number, right.number)
    percent, plain = (left, right) if left_percent else (right, left)
    if plain.unit:
        return False
    number = percent.number
    share = Rational(number.value / 100, number.digits, number.places + 2)
    if _equal_numbers(share, plain.number):
        return True
    return abs(number.value) > 1 and _equal_numbers(number, plain.number)


def _is_percent(quantity: Quantity) -> bool:
    return quantity.unit.startswith(PERCENT)


def _equal_numbers(left: Rational, right: Rational) -> bool:
    return left.value == right.value or _rounds_to(left, right) or _rounds_to(right, left)


def _rounds_to(decimal: Rational, exact: Rational) -> bool:
    """Whether a long decimal is the rounded or truncated form of a fraction."""
    whole = 1 in (decimal.value.denominator, exact.value.denominator)
    if decimal.digits < _MIN_DIGITS or exact.digits or whole:
        return False
    unit = Fraction(1, 10) ** decimal.places
    missing = abs(exact.value) - abs(decimal.value)
    return decimal.value * exact.value > 0 and -unit / 2 <= missing < unit
