"""Turns raw rows into problems: validates, normalises, drops duplicates, keeps splits apart.

Every row that is left out has a reason and an origin. Must not know where results are written.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum

from sphere_ray.config.problems import ProblemSettings, SplitSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.grading.extract import extract_answer, extract_gold
from sphere_ray.problems.rows import FAMILY, LEVEL, RawRow, pick
from sphere_ray.problems.sources import read_source
from sphere_ray.records import Problem

SPLITS = ("test", "validation", "train")
"""The order of ingestion: a question of a held-out split is refused in the splits that follow."""

MAX_QUESTION_CHARS = 8000
MAX_ANSWER_CHARS = 400
_MAX_RAW_CHARS = 2000
_MAX_NESTING = 8

_CONTROLS = {c: None for c in (*range(32), *range(127, 160)) if not chr(c).isspace()}
_BLANK_LINES = re.compile(r"\n{3,}")
_LEVEL = re.compile(r"(?:level )?(\d{1,4})", re.IGNORECASE | re.ASCII)


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
    INVALID_UNICODE = "invalid_unicode"
    DUPLICATE = "duplicate"
    CONFLICTING_ANSWER = "conflicting_answer"
    IN_HELD_OUT_SPLIT = "in_held_out_split"


_HARMLESS = (Reason.DUPLICATE, Reason.IN_HELD_OUT_SPLIT)
"""Reasons for which a sound row is left out; they do not count against a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """One row that was left out, and where it came from; `raw` is its text, shortened."""

    split: str
    origin: str
    reason: Reason
    detail: str
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestResult:
    """By split: the problems, the number of rows read and the URI; and all rows left out."""

    problems: Mapping[str, tuple[Problem, ...]]
    rejected: tuple[Rejected, ...]
    rows: Mapping[str, int]
    sources: Mapping[str, str]

    @property
    def dropped(self) -> dict[str, int]:
        """Rows left out, by reason."""
        return dict(Counter(str(r.reason) for r in self.rejected))


class _RefusedError(Exception):
    """One row cannot become a problem."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def ingest(
    settings: ProblemSettings,
    read: Callable[[str], Iterator[RawRow]] = read_source,
    *,
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int | None = None,
) -> IngestResult:
    """Read all splits; see `ingest_splits`."""
    splits = {split: getattr(settings, split) for split in SPLITS}
    return ingest_splits(splits, read, count_tokens=count_tokens, max_tokens=max_tokens)


def ingest_splits(
    splits: Mapping[str, SplitSettings],
    read: Callable[[str], Iterator[RawRow]] = read_source,
    *,
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int | None = None,
) -> IngestResult:
    """Read splits in the order given; a question belongs to the first split that has it.

    `count_tokens` gives the length of the whole prompt that is made of a question; a question with
    more than `max_tokens` is rejected. Both or neither must be given. Call `require_usable` once
    the rejected rows are written.

    Raises:
        ProblemSourceError: a source cannot be read at all.
    """
    kept: dict[str, tuple[str, Problem]] = {}
    rejected: list[Rejected] = []
    rows = Counter[str]()
    for name, split in splits.items():
        left = split.limit or math.inf
        for row in read(split.source):
            rows[name] += 1
            try:
                problem = _problem_of(row, split.source)
                _refuse_repeated(problem, name, kept)
                if count_tokens is not None and max_tokens is not None:
                    _refuse_long_prompt(count_tokens(problem.question), max_tokens)
            except _RefusedError as refusal:
                rejected.append(_rejected(name, row, refusal))
                continue
            kept[problem.question] = (name, problem)
            left -= 1
            if not left:
                break
    return IngestResult(
        problems={name: tuple(p for s, p in kept.values() if s == name) for name in splits},
        rejected=tuple(rejected),
        rows={name: rows[name] for name in splits},
        sources={name: split.source for name, split in splits.items()},
    )


def require_usable(result: IngestResult, max_share: float, rejected_path: str) -> None:
    """Refuse a split that is empty or has too many bad rows.

    `max_share` is `problems.max_rejected_share`; the message sends the reader to `rejected_path`.

    Raises:
        ProblemSourceError: names the counts and the most common reason.
    """
    for split, source in result.sources.items():
        where = f"problems.{split} ({source})"
        rows = result.rows[split]
        if not rows:
            raise ProblemSourceError(f"{where} has no rows; give a source with problems")
        refused = [r for r in result.rejected if r.split == split]
        bad = [r for r in refused if r.reason not in _HARMLESS]
        if len(bad) > max_share * rows:
            raise ProblemSourceError(
                f"{where}: {len(bad)} of {rows} rows were rejected, {_most_common(bad)}; "
                f"see {rejected_path}, correct the source, or raise problems.max_rejected_share "
                f"(now {max_share})"
            )
        if not result.problems[split]:
            raise ProblemSourceError(
                f"{where}: none of {rows} rows is left, {_most_common(refused)}; "
                f"see {rejected_path}"
            )


def rejected_lines(rejected: Iterable[Rejected]) -> str:
    """Write rejected rows as JSON lines, for people to read."""
    return "".join(f"{json.dumps(asdict(r))}\n" for r in rejected)


def _problem_of(row: RawRow, source: str) -> Problem:
    """Validate and normalise one row; a row made of a problem's own fields gives that problem."""
    if row.values is None:
        raise _RefusedError(Reason.BROKEN_ROW, row.error or "")
    values, columns = row.values, row.columns
    question = _question(pick(values, columns.question))
    answer = _answer(pick(values, columns.answer))
    family = pick(values, FAMILY)
    return Problem(
        problem_id=_problem_id(question, answer),
        question=question,
        answer=answer,
        source=source,
        family=normalise(family) or None if isinstance(family, str) else None,
        level=_level(pick(values, LEVEL)),
    )


def _problem_id(question: str, answer: str) -> str:
    """Hash normalised content to 32 hex digits."""
    content = json.dumps([question, answer])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def normalise(text: str) -> str:
    """Bring text to Unicode's NFC; drop control characters, repeated blanks and outer blanks.

    Line breaks stay, at most two in a row. Idempotent.
    """
    text = unicodedata.normalize("NFC", text.translate(_CONTROLS))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _refuse_long_prompt(tokens: int, most: int) -> None:
    if tokens > most:
        raise _RefusedError(
            Reason.QUESTION_TOO_LONG,
            f"its prompt has {tokens} tokens, and there is room for {most}",
        )


def _refuse_repeated(
    problem: Problem, split: str, taken: Mapping[str, tuple[str, Problem]]
) -> None:
    first_split, first = taken.get(problem.question, (split, None))
    if first_split != split:
        raise _RefusedError(Reason.IN_HELD_OUT_SPLIT, f"the question is in {first_split}")
    if first is not None and first.answer != problem.answer:
        raise _RefusedError(
            Reason.CONFLICTING_ANSWER,
            f"the same question came before with the answer {first.answer!r}",
        )
    if first is not None:
        raise _RefusedError(Reason.DUPLICATE)


def _question(value: object) -> str:
    if value is None:
        raise _RefusedError(Reason.MISSING_QUESTION)
    if not isinstance(value, str):
        raise _RefusedError(Reason.QUESTION_NOT_TEXT, f"it is a {type(value).__name__}")
    _refuse_surrogates(value)
    question = normalise(value)
    if not question:
        raise _RefusedError(Reason.EMPTY_QUESTION)
    if len(question) > MAX_QUESTION_CHARS:
        raise _RefusedError(
            Reason.QUESTION_TOO_LONG, f"{len(question)} characters, {MAX_QUESTION_CHARS} at most"
        )
    return question


def _answer(value: object) -> str:
    if value is None:
        raise _RefusedError(Reason.MISSING_ANSWER)
    text = _answer_text(value)
    _refuse_surrogates(text)
    gold = _gold(text)
    if not gold:
        raise _RefusedError(Reason.EMPTY_ANSWER)
    if len(gold) > MAX_ANSWER_CHARS:
        raise _RefusedError(
            Reason.NO_FINAL_ANSWER,
            f"{len(gold)} characters without #### or \\boxed; {MAX_ANSWER_CHARS} at most",
        )
    return gold


def _answer_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _RefusedError(Reason.ANSWER_NOT_TEXT, f"it is a {type(value).__name__}")
    if not math.isfinite(value):
        raise _RefusedError(Reason.ANSWER_NOT_TEXT, f"it is {value}")
    return str(int(value)) if value == int(value) else str(value)


def _gold(text: str) -> str:
    """Extract the bare final answer, again and again because an answer may hold another box."""
    for _ in range(_MAX_NESTING):
        gold = normalise(extract_gold(text))
        if gold == normalise(text):  # perhaps a solution in words, as MetaMath's "The answer is: 5"
            gold = normalise(extract_answer(text) or gold)
        if gold == text:
            return gold
        text = gold
    raise _RefusedError(Reason.NO_FINAL_ANSWER, "answers are nested too deeply")


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _RefusedError(Reason.INVALID_UNICODE, str(error.reason)) from None


def _level(value: object) -> int | None:
    match = _LEVEL.fullmatch(str(value).strip())
    return int(match[1]) if match else None


def _rejected(split: str, row: RawRow, refusal: _RefusedError) -> Rejected:
    raw = row.text if row.text is not None else json.dumps(row.values, default=str)
    return Rejected(
        split=split,
        origin=row.origin,
        reason=refusal.reason,
        detail=refusal.detail,
        raw=raw[:_MAX_RAW_CHARS],
    )


def _most_common(rejected: list[Rejected]) -> str:
    reason, count = Counter(r.reason for r in rejected).most_common(1)[0]
    first = next(r for r in rejected if r.reason is reason)
    return f"{count} of them for {reason.replace('_', ' ')} (first: {first.origin})"
