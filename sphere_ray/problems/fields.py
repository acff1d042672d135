"""What the columns of a row say: the question with its choices, and the gold.

Nothing is guessed: what could be read in two ways is refused with its reason, and what was done to
a row is counted in `did`, in words for the log.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import StrEnum

from sphere_ray.errors import ProblemSourceError
from sphere_ray.grading.extract import extract_gold, why_no_answer
from sphere_ray.problems.rows import BODY, CHOICES, Columns, RawRow, is_blank, lookup, pick
from sphere_ray.untrusted import normalise, unusable

MAX_QUESTION_CHARS = 8000
MAX_ANSWER_CHARS = 400
_MAX_RAW_QUESTION_CHARS = 2 * MAX_QUESTION_CHARS
_MAX_RAW_ANSWER_CHARS = 100_000
_MAX_LOOKED_AT_CHARS = 4 * MAX_ANSWER_CHARS
"""A longer find is no final answer, and no choice."""
_MAX_NESTING = 8
_MAX_CHOICES = 26
_MAX_ITEMS = 64

_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_LABEL = re.compile(r"\s*\(?([A-Za-z])[).:]\s*")


class Reason(StrEnum):
    """Why a row is left out."""

    BROKEN_ROW = "broken_row"
    MISSING_QUESTION = "missing_question"
    QUESTION_NOT_TEXT = "question_not_text"
    EMPTY_QUESTION = "empty_question"
    QUESTION_TOO_LONG = "question_too_long"
    MISSING_ANSWER = "missing_answer"
    ANSWER_NOT_TEXT = "answer_not_text"
    EMPTY_ANSWER = "empty_answer"
    NO_FINAL_ANSWER = "no_final_answer"
    ANSWER_NO_CHOICE = "answer_no_choice"
    BAD_CHOICES = "bad_choices"
    INVALID_UNICODE = "invalid_unicode"
    DUPLICATE = "duplicate"
    CONFLICTING_ANSWER = "conflicting_answer"
    IN_HELD_OUT_SPLIT = "in_held_out_split"
    CONTAMINATED = "contaminated"


class RefusedError(Exception):
    """One row cannot become a problem."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        """Say why; `detail` is for the person who looks at the rejected rows."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def question_of(row: RawRow, did: Counter[str]) -> str:
    """The question, with all its parts and choices.

    Raises:
        RefusedError: there is none that can be used.
        ProblemSourceError: a part of the question lies in a column that nobody named.
    """
    values, columns = row.values or {}, row.columns
    _refuse_forgotten(values, columns, row.origin)
    if columns.named:
        parts = [(name, lookup(values, name)) for name in columns.question]
    else:
        parts = [pick(values, columns.question)]
    filled = [(name, value) for name, value in parts if not is_blank(value)]
    if not filled:
        there = any(value is not None for _, value in parts)
        raise RefusedError(Reason.EMPTY_QUESTION if there else Reason.MISSING_QUESTION)
    if len(filled) < len(parts):
        did["questions without one of their parts"] += 1
    did.update(f"questions from {name}" for name, _ in filled)
    text = "\n".join(_question_text(value, did) for _, value in filled)
    if columns.choices is not None:
        text += f"\n{_listed(choices_of(values, columns.choices), columns)}"
        did[f"choices shown from {columns.choices}"] += 1
    if len(text) > _MAX_RAW_QUESTION_CHARS:
        raise _too_long(len(text))
    question = normalise(text)
    if not question:
        raise RefusedError(Reason.EMPTY_QUESTION)
    if len(question) > MAX_QUESTION_CHARS:
        raise _too_long(len(question))
    return question


def _too_long(length: int) -> RefusedError:
    return RefusedError(
        Reason.QUESTION_TOO_LONG, f"{length} characters, {MAX_QUESTION_CHARS} at most"
    )


def _refuse_forgotten(values: Mapping[str, object], columns: Columns, origin: str) -> None:
    """Refuse a source whose questions are in several columns of which none was named."""
    if columns.named:
        return
    asked = pick(values, columns.question)[0]
    for name in BODY:
        if isinstance(values.get(name), str) and not is_blank(values[name]):
            raise ProblemSourceError(
                f"{origin} has text in the column {name}, which the question may need; add "
                f"?question={name},{asked} to join them, or ?question={asked} to leave it out"
            )
    for name in CHOICES:
        if columns.choices is None and not is_blank(values.get(name)):
            raise ProblemSourceError(
                f"{origin} has choices in the column {name}; add ?choices={name} to show them, or "
                f"?question={asked} to leave them out"
            )


def _question_text(value: object, did: Counter[str]) -> str:
    if isinstance(value, str):
        return _text(value)
    if not isinstance(value, list):
        raise RefusedError(Reason.QUESTION_NOT_TEXT, f"it is a {type(value).__name__}")
    turns = [t for t in value if isinstance(t, Mapping) and isinstance(t.get("content"), str)]
    roles = [str(turn.get("role")) for turn in turns]
    if len(turns) < len(value) or [r for r in roles if r != "system"] != ["user"]:
        raise RefusedError(
            Reason.QUESTION_NOT_TEXT,
            "it is a list, but not a chat with one turn of the user and nothing after it",
        )
    did["questions taken out of a chat"] += 1
    if "system" in roles:
        did["system turns left out"] += 1
    return _text(next(turn["content"] for turn in turns if turn.get("role") == "user"))


def choices_of(values: Mapping[str, object], name: str) -> tuple[str, ...]:
    """The texts of the choices, in the order of their letters and without them.

    Raises:
        RefusedError: they are not between 2 and 26 texts, or their letters are not A, B, C ...
    """
    found = lookup(values, name)
    items: list[object] = []
    if isinstance(found, Mapping):
        named = [label for label, text in found.items() if text is not None]
        if [str(label).upper() for label in named] != list(_letters(len(named))):
            raise RefusedError(Reason.BAD_CHOICES, "their names are not A, B, C and so on")
        items = [found[label] for label in named]
    elif isinstance(found, list):
        items = found
    if not 2 <= len(items) <= _MAX_CHOICES:
        raise RefusedError(Reason.BAD_CHOICES, f"{len(items)} choices, 2 to 26 are needed")
    texts = [_choice_text(item, Reason.BAD_CHOICES) for item in items]
    labels = [_LABEL.match(text) for text in texts]
    if [match and match[1].upper() for match in labels] == list(_letters(len(texts))):
        texts = [text[match.end() :] for text, match in zip(texts, labels, strict=True) if match]
    return tuple(texts)


def _choice_text(value: object, reason: Reason) -> str:
    text = _text(_scalar_text(value, reason))
    if len(text) > _MAX_LOOKED_AT_CHARS:
        raise RefusedError(reason, f"{len(text)} characters, {_MAX_LOOKED_AT_CHARS} at most")
    return normalise(text)


def _letters(count: int) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]


def _listed(choices: Sequence[str], columns: Columns) -> str:
    if not columns.by_letter:
        return f"The answer is one of: {'; '.join(choices)}"
    letters = _letters(len(choices))
    lines = (f"({letter}) {text}" for letter, text in zip(letters, choices, strict=True))
    return "\n".join(["Answer with the letter of the right choice.", *lines])


def gold_of(row: RawRow, did: Counter[str]) -> str:
    """The bare final answer; that of several is a list with commas.

    Raises:
        RefusedError: there is none that can be used.
    """
    values, columns = row.values or {}, row.columns
    name, value = pick(values, columns.answer)
    if value is None:
        raise RefusedError(Reason.MISSING_ANSWER)
    if is_blank(value):
        raise RefusedError(Reason.EMPTY_ANSWER)
    did[f"golds from {name}"] += 1
    items = value if isinstance(value, list) else [value]
    if columns.choices is not None:
        return _chosen(items, choices_of(values, columns.choices), columns)
    if len(items) > _MAX_ITEMS:
        raise RefusedError(Reason.ANSWER_NOT_TEXT, f"it is a list of {len(items)}")
    golds = dict.fromkeys(_gold_of_item(item, did) for item in items)
    if isinstance(value, list):
        did[f"golds out of a list of {'one' if len(golds) == 1 else 'several, joined'}"] += 1
    gold = ", ".join(golds)
    if len(gold) > MAX_ANSWER_CHARS:
        raise _no_final_answer(len(gold))
    return gold


def _gold_of_item(item: object, did: Counter[str]) -> str:
    text = _text(_scalar_text(item, Reason.ANSWER_NOT_TEXT))
    if len(text) > _MAX_RAW_ANSWER_CHARS:
        raise _no_final_answer(len(text))
    if is_blank(text):
        raise RefusedError(Reason.EMPTY_ANSWER)
    if reason := why_no_answer(text):
        raise RefusedError(Reason.NO_FINAL_ANSWER, reason)
    gold = _bare(text)
    if not gold:
        raise RefusedError(Reason.EMPTY_ANSWER)
    if gold != text.strip():
        did["golds taken out of a longer text"] += 1
    return gold


def _no_final_answer(length: int) -> RefusedError:
    return RefusedError(
        Reason.NO_FINAL_ANSWER,
        f"{length} characters without #### or \\boxed; {MAX_ANSWER_CHARS} at most",
    )


def _bare(text: str) -> str:
    """Extract the bare final answer, again and again because an answer may hold another box."""
    text = normalise(text)
    for _ in range(_MAX_NESTING):
        found = extract_gold(text)
        if len(found) > _MAX_LOOKED_AT_CHARS:
            raise _no_final_answer(len(found))
        gold = normalise(found)
        if gold == text:
            return gold
        text = gold
    raise RefusedError(Reason.NO_FINAL_ANSWER, "answers are nested too deeply")


def _chosen(items: Sequence[object], choices: Sequence[str], columns: Columns) -> str:
    """The letter or the text of the right choice, which the source names in one of three ways.

    It may be the letter, the text, or a number that counts from 0 (as in MMLU).
    """
    if len(items) > 1:
        raise RefusedError(Reason.ANSWER_NO_CHOICE, f"{len(items)} choices are right")
    value = items[0]
    text = _choice_text(value, Reason.ANSWER_NOT_TEXT)
    letters = _letters(len(choices))
    places = {place for place, choice in enumerate(choices) if choice == text}
    if (match := _LETTER.fullmatch(text)) and match[1].upper() in letters:
        places.add(letters.index(match[1].upper()))
    if (match := _LABEL.match(text)) and match[1].upper() in letters:
        place = letters.index(match[1].upper())
        places |= {place} if text[match.end() :] == choices[place] else set()
    if isinstance(value, int) and 0 <= value < len(choices):
        places.add(value)
    if len(places) != 1:
        trouble = "fits several of" if places else "is none of"
        raise RefusedError(Reason.ANSWER_NO_CHOICE, f"{text[:80]!r} {trouble} the choices")
    (place,) = places
    return letters[place] if columns.by_letter else choices[place]


def _scalar_text(value: object, reason: Reason) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise RefusedError(reason, f"it is a {type(value).__name__}")
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise RefusedError(reason, f"it is {value}")
    return str(int(value)) if value == int(value) else str(value)


def _text(text: str) -> str:
    if (trouble := unusable(text)) is not None:
        raise RefusedError(Reason.INVALID_UNICODE, trouble)
    return text


def short_text(value: object, most: int) -> str | None:
    """A short text that describes a row, None where it is none.

    Raises:
        RefusedError: it is not Unicode.
    """
    if not isinstance(value, str) or len(value) > most:
        return None
    return normalise(_text(value)) or None
