r"""Reads answers as numbers, lists and tuples, and compares them part by part.

Used twice: here, where only what is certain is decided, and by a worker, where math-verify compares
the parts that are left. Policies, each of them tested:

* Decimals are compared as rounded to six places, below 0.1 to six significant digits; everything
  else exactly. So 0.333333 is 1/3 and 1.414214 is 1.41421356, but 0.333 is not 1/3.
* A bare number of at most 1 is a share, so that 0.5 is 50%; above 1 it may have lost its sign, so
  that 50 is 50%. 0.5% is not 0.5, and 500% is not 5.
* A missing unit agrees with any unit. Two different units never agree: nothing is converted.
* Order counts in `(a, b)` and `[a, b]`, but not in `a, b` and `\{a, b\}`. A bare list agrees with
  brackets, in their order. Different brackets never agree.
* `x = 5` agrees with `5` but not with `y = 5`. Values with several names are in the names' order.
* `a or b` is right only if every one of its values is.
* `(B) 36` is the letter where the other side is a letter, and 36 where it is not.
* A numeral with a base only agrees with itself; so do words. Equal formulas have equal letters.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sphere_ray.grading.normalise import MAX_CHARS, same_text
from sphere_ray.grading.rational import Rational, read_rational
from sphere_ray.grading.units import PERCENT, compatible, split_unit

_MAX_NESTING = 4
_MAX_TOKENS = 300
_TOKEN = re.compile(r"\\[{}]|\\(?:lor|cup)(?![a-zA-Z])|[()\[\]{},;]")
_CLOSING = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "{": ("}",)}
_UNORDERED = {"", "\\{\\}"}
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+")
_LEFT = re.compile(r"(?!.*\\(?:frac|sqrt))(?=.*[A-Za-z])(?:[A-Za-z\\'|() ,&{}]|_\w|_\{\w+\}){1,40}")
_VARIABLE = re.compile(r"(?:[A-Za-z]|\\(?!text)[a-z]+)(?:_\w|_\{\w+\})?(?:\([A-Za-z]\))?")
_MEMBER = re.compile(r"([A-Za-z])\s?\\in(?![A-Za-z])\s?(?!\\math)")
_BUILDER = re.compile(
    r"\\\{\s?[A-Za-z](?:\s?\\in\s?\\mathbb\s?\{?R\}?)?\s?(?:\\?\||\\mid|:)(.*)\\\}"
)
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_CHOICE = re.compile(
    r"(?:\\text\s?\{\s?)?\(?([A-Z])(?:\)(?:\s?\}\s?|\s)|[.:]\s?\}?\s|\}\s?[.:])\s?(?![-+*/^=,)\s])(?=.)"
)
_LETTER = re.compile(r"(?:\\text\s?\{\s?)?\(?[A-Z][).]?\s?\}?")
_BASED = re.compile(r"(?=[A-F]*[0-9])([0-9A-F]+)\s?_\s?\{?\s?([0-9]{1,2})\s?\}?")
_WORDS = re.compile(
    r"(?=.*[A-Za-z]{4}|[A-Z]{2,}$)[A-Za-z][A-Za-z0-9.,'() -]*|[0-9]{1,2}:[0-9]{2} ?[AaPp]\.?[Mm]\.?"
)
_WORD = "text:"
_PUNCTUATION = str.maketrans("", "", " .'(),-")
_NO_FORMULA = re.compile(
    r"[=<>:&|']|\\(?!(?:frac|sqrt|pi|cdot|times|ln|log|sin|cos|tan|binom|alpha|beta|gamma|lambda|mu"
    r"|omega|tau|sigma|theta|rho|zeta|delta)(?![a-z]))[a-zA-Z]"
)
_NO_LETTER = re.compile(r"\\[A-Za-z]+|_\s?(?:\w|\{[^{}]*\})|[^A-Za-z]|[ei]")


@dataclass(frozen=True, slots=True)
class Part:
    r"""An answer or a part of one. `text` is all of it, `value` is without name and unit.

    `number` is the value of a rational number; `items` are the parts of a list and `brackets` what
    is around them, like `()`, `\{\}` or nothing. `either` marks a list whose values were joined by
    "or": there one value may be written twice.
    """

    text: str
    value: str
    name: str = ""
    unit: str = ""
    number: Rational | None = None
    brackets: str = ""
    items: "tuple[Part, ...]" = ()
    either: bool = False


Equal = Callable[[Part, Part], bool | None]
"""Whether two parts, not both of them lists, are equal; None if that is unknown."""


def compare_exactly(answer: str, gold: str) -> bool | None:
    """Compare two normalised answers; None when this needs algebra. Symmetric."""
    return compare(answer, gold, equal_parts)


def compare(answer: str, gold: str, equal: Equal) -> bool | None:
    """Compare two normalised answers, and their parts by `equal`; None if that is undecided."""
    if same_text(answer, gold):
        return True
    if max(len(answer), len(gold)) > MAX_CHARS or not answer or not gold:
        return None
    answer, gold = _without_label(answer, gold), _without_label(gold, answer)
    pairs = itertools.product(_readings(answer), _readings(gold))
    return _settled((_compare(left, right, equal) for left, right in pairs), True)


def _without_label(text: str, other: str) -> str:
    """Of `(B) 36` return the letter if the other side is one or has one, else the value."""
    label = _CHOICE.match(text)
    if label is None:
        return text
    return label[1] if _LETTER.fullmatch(other) or _CHOICE.match(other) else text[label.end() :]


def _readings(text: str) -> list[Part]:
    """All that `text` can mean: `123,456` is a number and may be a list of two."""
    listed = [_listed(text, "", text.split(","), 0)] if _THOUSANDS.fullmatch(text) else []
    return [_read(text), *listed]


def _read(text: str, nesting: int = 0) -> Part:
    text = text.strip()
    if number := read_rational(text):
        return Part(text, text, number=number)
    if nesting > _MAX_NESTING or len(_TOKEN.findall(text)) > _MAX_TOKENS:
        return Part(text, text)
    name, body = _split_name(text)
    single = _single(text, name, body)
    if single.number:
        return single
    parts, either = _split(text)
    if len(parts) > 1:
        return replace(_listed(text, "", parts, nesting), either=either)
    marked = _TEXT.fullmatch(body) or _BUILDER.fullmatch(body)
    if name or marked:
        inner = _read(marked[1] if marked else body, nesting + 1)
        return replace(inner, text=text, name=name or inner.name)
    if len(_PLUS_MINUS.findall(text)) == 1:
        signs = [_PLUS_MINUS.sub(sign, text).lstrip("+ ") for sign in "+-"]
        return _listed(text, "", signs, nesting)
    for opening, closings in _CLOSING.items():
        closing = next((end for end in closings if text.endswith(end)), "")
        if closing and text.startswith(opening) and opening != "{":
            parts, _ = _split(text[len(opening) : -len(closing)])
            return _listed(text, opening + closing, parts, nesting) if any(parts) else single
    return single


def _single(text: str, name: str, body: str) -> Part:
    if _WORDS.fullmatch(body):
        return Part(text, body, name)
    value, scale, unit = split_unit(body)
    if number := read_rational(value):
        number = Rational(number.value * scale, number.decimal)
    elif scale != 1 or "\\circ" in body:  # n million, \sin 30^\circ
        value, unit = body, ""
    return Part(text, value, name, unit, number)


def _split_name(text: str) -> tuple[str, str]:
    """Split `x = 5` and `x in S` into the name and the rest."""
    if member := _MEMBER.match(text):
        return member[1], text[member.end() :]
    left, _, right = text.partition("=")
    if right.strip() and _LEFT.fullmatch(left):
        return left.replace(" ", "").replace("&", ""), right.strip()
    return "", text


def _split(text: str) -> tuple[list[str], bool]:
    """Split at commas and "or" outside of brackets; no parts when the brackets do not match."""
    parts, begin, either = list[str](), 0, False
    closers = list[tuple[str, ...]]()
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in {",", ";", "\\lor", "\\cup"}:
            if not closers:
                parts.append(text[begin : match.start()])
                begin = match.end()
                either |= token == "\\lor"
        elif token in _CLOSING:
            closers.append(_CLOSING[token])
        elif not closers or token not in closers.pop():
            return [], False
    return ([], False) if closers else ([*parts, text[begin:]], either)


def _listed(text: str, brackets: str, parts: Sequence[str], nesting: int) -> Part:
    items = list[Part]()
    for part in parts:
        item = _read(part, nesting + 1)
        spread = brackets in _UNORDERED and "\\pm" in part and item.items and not item.brackets
        items += item.items if spread else (item,)
    names = {item.name for item in items} - {""}
    name = names.pop() if len(names) == 1 else ""
    if name:
        items = [replace(item, name="") for item in items]
    if len(items) == 1:
        return replace(items[0], text=text, name=name)
    return Part(text, text, name, brackets=brackets, items=tuple(items))


def _compare(left: Part, right: Part, equal: Equal) -> bool | None:
    if left.either or right.either:
        sides = (left.items or (left,), right.items or (right,))
        return _settled(
            (
                _settled((_compare(item, other, equal) for other in theirs), True)
                for ours, theirs in (sides, sides[::-1])
                for item in ours
            ),
            False,
        )
    if not left.items and not right.items:
        return equal(left, right)
    if left.items and right.items:
        return _compare_lists(left, right, equal)
    single = right if left.items else left
    if not _NO_FORMULA.search(single.value):
        return False
    return equal(Part(left.value, left.value), Part(right.value, right.value))


def _compare_lists(left: Part, right: Part, equal: Equal) -> bool | None:
    brackets = {left.brackets, right.brackets}
    if len(brackets - {""}) > 1 or ("" in brackets and brackets & {"[)", "(]"}):
        return False
    if len(left.items) != len(right.items) or _differ(left.name, right.name):
        return False
    named = [_by_name(left), _by_name(right)]
    if all(named) and [item.name for item in named[0]] != [item.name for item in named[1]]:
        return False
    ours, theirs = named[0] or left.items, named[1] or right.items
    if any(named) or brackets - _UNORDERED:
        pairs = zip(ours, theirs, strict=True)
        return _settled((_compare(item, other, equal) for item, other in pairs), False)
    return _match(ours, list(theirs), equal)


def _by_name(part: Part) -> Sequence[Part]:
    """The items in the order of their names, where each has a name of its own."""
    names = {item.name for item in part.items}
    distinct = len(names) == len(part.items) and "" not in names
    return sorted(part.items, key=lambda item: item.name) if distinct else ()


def _match(left: Sequence[Part], rest: list[Part], equal: Equal) -> bool | None:
    """Compare in any order: each item takes the first that is equal to it."""
    unknown = False
    for item in left:
        found = list[bool | None]()
        while True not in found and len(found) < len(rest):
            found.append(_compare(item, rest[len(found)], equal))
        if True in found:
            rest.pop(found.index(True))
        elif None in found:
            unknown = True
        else:
            return False
    return None if unknown else True


def _settled(results: Iterable[bool | None], decisive: bool) -> bool | None:
    """`decisive` if any of the results is, None if any is unknown, else the opposite."""
    found = set[bool | None]()
    for result in results:
        if result is decisive:
            return decisive
        found.add(result)
    return None if None in found else not decisive


def equal_parts(left: Part, right: Part) -> bool | None:
    """Compare numbers, numerals with a base, words, equal texts, and formulas in other letters."""
    if left.number and right.number:
        return not _differ(left.name, right.name) and _equal_quantities(left, right)
    if same_text(left.value, right.value):
        return not _differ(left.name, right.name) and compatible(left.unit, right.unit)
    ours, theirs = _certain(left), _certain(right)
    if (ours and theirs) or _WORD in ours + theirs:
        return ours == theirs
    if _NO_FORMULA.search(left.value) or _NO_FORMULA.search(right.value):
        return None
    letters = [set(_NO_LETTER.sub("", side.value)) for side in (left, right)]
    return None if letters[0] == letters[1] else False


def _differ(name: str, other: str) -> bool:
    """Whether both are names of variables, and not of the same one."""
    return name != other and all(_VARIABLE.fullmatch(each) for each in (name, other))


def _certain(part: Part) -> str:
    """What is only equal to the same: a number, a numeral with its base, or words; else ""."""
    if part.number:
        return "number"
    if numeral := _BASED.fullmatch(part.value):
        return f"{_WORD} {numeral[1]} in base {numeral[2]}"
    words = _WORDS.fullmatch(part.value)
    return f"{_WORD} {part.value.translate(_PUNCTUATION).casefold()}" if words else ""


def _equal_quantities(left: Part, right: Part) -> bool:
    percents = [side.unit.startswith(PERCENT) for side in (left, right)]
    percent, plain = (left, right) if percents[0] else (right, left)
    assert percent.number is not None
    assert plain.number is not None
    if percents[0] == percents[1]:
        return compatible(left.unit, right.unit) and percent.number.equals(plain.number)
    share = abs(plain.number.value) <= 1
    number = Rational(percent.number.value / (100 if share else 1), percent.number.decimal)
    return not plain.unit and number.equals(plain.number)
