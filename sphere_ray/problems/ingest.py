"""Turns raw rows into problems: validates, drops duplicates, keeps splits apart, decontaminates.

Every row that is left out has a reason and an origin. Must not know where results are written.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from sphere_ray.config.problems import ProblemSettings, SplitSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.grading.exact import compare_exactly
from sphere_ray.problems.contamination import HeldOut, Overlap
from sphere_ray.problems.fields import (
    Reason,
    RefusedError,
    gold_of,
    question_of,
    short_text,
)
from sphere_ray.problems.rows import FAMILY, LEVEL, RawRow, pick
from sphere_ray.problems.sources import read_source
from sphere_ray.records import Problem
from sphere_ray.redaction import redact

SPLITS = ("test", "validation", "train")
"""The order of ingestion: a question of a held-out split is refused in the splits that follow."""

TRAIN = "train"
"""The split that must not be contaminated by those before it."""

_MAX_RAW_CHARS = 500
_MAX_LISTED = 100_000
"""Rows listed for one reason in one split; more are only counted."""
_MAX_FAMILY_CHARS = 100
_MAX_SAMPLE_CHARS = 300

_LEVEL = re.compile(r"(?:level )?(\d{1,4})", re.IGNORECASE | re.ASCII)

_HARMLESS = (Reason.DUPLICATE, Reason.IN_HELD_OUT_SPLIT, Reason.CONTAMINATED)
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
    """By split: the problems, the rows read, the URI, what was done and why rows were left out.

    `rejected` are the rows left out, so many as anyone looks at, and `overlaps` say which training
    problems met which held-out ones.
    """

    problems: Mapping[str, tuple[Problem, ...]]
    rejected: tuple[Rejected, ...]
    rows: Mapping[str, int]
    sources: Mapping[str, str]
    reasons: Mapping[str, Counter[Reason]]
    did: Mapping[str, Mapping[str, int]]
    unused: Mapping[str, tuple[str, ...]]
    overlaps: tuple[Overlap, ...]

    @property
    def dropped(self) -> dict[str, int]:
        """Rows left out, by reason."""
        return {str(reason): n for reason, n in sum(self.reasons.values(), Counter()).items()}

    def report(self) -> list[str]:
        """Lines for people: for each split what was done, and one problem with its gold."""
        lines = []
        for split, problems in self.problems.items():
            facts = [
                *(f"{count} {what}" for what, count in self.did[split].items()),
                *(f"{count} rejected: {_words(r)}" for r, count in self.reasons[split].items()),
                f"columns not used: {', '.join(self.unused[split]) or 'none'}",
            ]
            lines.append(
                f"{split}: {len(problems)} problems from {self.rows[split]} rows of "
                f"{self.sources[split]}; {'; '.join(facts)}"
            )
            if problems:
                question = " ".join(problems[0].question.split())[:_MAX_SAMPLE_CHARS]
                lines.append(f"{split}, for example: {question} [gold: {problems[0].answer}]")
        return lines


def ingest(
    settings: ProblemSettings,
    read: Callable[[str], Iterator[RawRow]] = read_source,
    *,
    held_out: Mapping[str, Sequence[Problem]] | None = None,
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int | None = None,
) -> IngestResult:
    """Read all splits; see `ingest_splits`."""
    splits = {split: getattr(settings, split) for split in SPLITS}
    return ingest_splits(
        splits, read, held_out=held_out, count_tokens=count_tokens, max_tokens=max_tokens
    )


def ingest_splits(
    splits: Mapping[str, SplitSettings],
    read: Callable[[str], Iterator[RawRow]] = read_source,
    *,
    held_out: Mapping[str, Sequence[Problem]] | None = None,
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int | None = None,
) -> IngestResult:
    """Read splits in the order given; a question belongs to the first split that has it.

    Problems of `train` that overlap with one of an earlier split are left out; see `HeldOut`. So
    are those that overlap with problems `held_out` elsewhere, by the name of their set.
    `count_tokens` gives the length of the whole prompt that is made of a question; a question with
    more than `max_tokens` is rejected. Both or neither must be given. Call `require_usable` once
    the rejected rows are written.

    Raises:
        ProblemSourceError: a source cannot be read at all.
    """
    work = _Ingest(count_tokens=count_tokens, max_tokens=max_tokens)
    for name, problems in (held_out or {}).items():
        for problem in problems:
            work.held_out.add(problem, name)
    for name, split in splits.items():
        work.read_split(name, split, read)
    return IngestResult(
        problems={
            name: tuple(k.problem for k in work.kept.values() if k.split == name) for name in splits
        },
        rejected=tuple(work.rejected),
        rows={name: work.rows[name] for name in splits},
        sources={name: redact(split.source) for name, split in splits.items()},
        reasons=work.reasons,
        did=work.did,
        unused=work.unused,
        overlaps=tuple(work.overlaps),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    split: str
    origin: str
    problem: Problem


@dataclass(kw_only=True)
class _Ingest:
    """What is known while splits are read one after the other."""

    count_tokens: Callable[[str], int] | None
    max_tokens: int | None
    kept: dict[str, _Kept] = field(default_factory=dict)
    doubtful: dict[str, str] = field(default_factory=dict)
    """Questions that had two answers, and the first of these."""
    rejected: list[Rejected] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[Reason]] = field(default_factory=dict)
    did: dict[str, Counter[str]] = field(default_factory=dict)
    unused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    held_out: HeldOut = field(default_factory=HeldOut)

    def read_split(
        self, name: str, split: SplitSettings, read: Callable[[str], Iterator[RawRow]]
    ) -> None:
        """Read one split to its end, or to its limit."""
        did = self.did[name] = Counter()
        self.reasons[name] = Counter()
        source = redact(split.source)
        unused: dict[str, None] = {}
        left = split.limit or math.inf
        for row in read(split.source):
            self.rows[name] += 1
            unused.update(dict.fromkeys((*(row.values or ()), *row.left_out)))
            try:
                problem = _problem_of(row, source, did)
                left += self._drop_doubtful(problem, name)
                self._refuse(problem, name, row)
            except RefusedError as refusal:
                self._reject(name, row, refusal)
                continue
            self.kept[problem.question] = _Kept(split=name, origin=row.origin, problem=problem)
            left -= 1
            if not left:
                break
        self.unused[name] = tuple(each for each in unused if each not in _used(did))
        if name != TRAIN:
            for kept in self.kept.values():
                if kept.split == name:
                    self.held_out.add(kept.problem, name)

    def _refuse(self, problem: Problem, split: str, row: RawRow) -> None:
        """Refuse a problem that came before, that is held out, or that is too long to ask.

        Raises:
            RefusedError: says which.
        """
        question, first = problem.question, self.kept.get(problem.question)
        if first is not None and first.split != split:
            raise RefusedError(Reason.IN_HELD_OUT_SPLIT, f"the question is in {first.split}")
        if question in self.doubtful:
            raise RefusedError(
                Reason.CONFLICTING_ANSWER,
                f"the same question came before with the answer {self.doubtful[question]!r}",
            )
        if first is not None:
            raise RefusedError(Reason.DUPLICATE)
        if self.count_tokens is not None and self.max_tokens is not None:
            _refuse_long_prompt(self.count_tokens(question), self.max_tokens)
        overlap = self.held_out.meets(problem, row.origin) if split == TRAIN else None
        if overlap is not None:
            self.overlaps.append(overlap)
            raise RefusedError(Reason.CONTAMINATED, overlap.sentence)

    def _drop_doubtful(self, problem: Problem, split: str) -> int:
        """Take out the problem with this question if it has another answer; count what went.

        Nobody knows which of the two is right.
        """
        first = self.kept.get(problem.question)
        if first is None or first.split != split or _same_gold(first.problem, problem):
            return 0
        del self.kept[problem.question]
        self.doubtful[problem.question] = first.problem.answer
        detail = f"the same question came again with the answer {problem.answer!r}"
        refused = RefusedError(Reason.CONFLICTING_ANSWER, detail)
        self._reject(split, RawRow(origin=first.origin, text=problem.question), refused)
        return 1

    def _reject(self, split: str, row: RawRow, refusal: RefusedError) -> None:
        self.reasons[split][refusal.reason] += 1
        if self.reasons[split][refusal.reason] > _MAX_LISTED:
            return
        raw = row.text if row.text is not None else _shown(row.values)
        rejected = Rejected(
            split=split,
            origin=row.origin,
            reason=refusal.reason,
            detail=refusal.detail,
            raw=raw[:_MAX_RAW_CHARS],
        )
        self.rejected.append(rejected)


def _used(did: Mapping[str, int]) -> set[str]:
    """Columns that questions and golds were taken from."""
    places = [what.rpartition(" from ")[2] for what in did if " from " in what]
    return {*places, *(place.partition(".")[0] for place in places), *FAMILY, *LEVEL}


def _same_gold(first: Problem, second: Problem) -> bool:
    """Whether two golds are certainly the same value, perhaps in other words."""
    return first.answer == second.answer or bool(compare_exactly(first.answer, second.answer))


def _words(reason: Reason) -> str:
    return reason.replace("_", " ")


def require_usable(result: IngestResult, max_share: float, rejected_path: str) -> None:
    """Refuse a split that is empty or has too many bad rows.

    `max_share` is `problems.max_rejected_share`; the message sends the reader to `rejected_path`.

    Raises:
        ProblemSourceError: names the counts and the most common reason.
    """
    for split, source in result.sources.items():
        where = f"problems.{split} ({source})" if split in SPLITS else f"{split} ({source})"
        rows = result.rows[split]
        if not rows:
            raise ProblemSourceError(f"{where} has no rows; give a source with problems")
        reasons = result.reasons[split]
        bad = Counter({r: count for r, count in reasons.items() if r not in _HARMLESS})
        if bad.total() > max_share * rows:
            raise ProblemSourceError(
                f"{where}: {bad.total()} of {rows} rows were rejected, "
                f"{_most_common(result, split, bad)}; "
                f"see {rejected_path}, correct the source, or raise problems.max_rejected_share "
                f"(now {max_share})"
            )
        if not result.problems[split]:
            raise ProblemSourceError(
                f"{where}: none of {rows} rows is left, {_most_common(result, split, reasons)}; "
                f"see {rejected_path}"
            )


def rejected_lines(rejected: Iterable[Rejected] | Iterable[Overlap]) -> str:
    """Write rejected rows, or overlaps, as JSON lines for people to read."""
    return "".join(f"{json.dumps(asdict(r))}\n" for r in rejected)


def _problem_of(row: RawRow, source: str, did: Counter[str]) -> Problem:
    """Validate and normalise one row; a row made of a problem's own fields gives that problem."""
    if row.values is None:
        raise RefusedError(Reason.BROKEN_ROW, row.error or "")
    question, answer = question_of(row, did), gold_of(row, did)
    return Problem(
        problem_id=_problem_id(question, answer),
        question=question,
        answer=answer,
        source=source,
        family=short_text(pick(row.values, FAMILY)[1], _MAX_FAMILY_CHARS),
        level=_level(pick(row.values, LEVEL)[1]),
    )


def _problem_id(question: str, answer: str) -> str:
    """Hash normalised content to 32 hex digits."""
    content = json.dumps([question, answer])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _refuse_long_prompt(tokens: int, most: int) -> None:
    if tokens > most:
        raise RefusedError(
            Reason.QUESTION_TOO_LONG,
            f"its prompt has {tokens} tokens, and there is room for {most}",
        )


def _level(value: object) -> int | None:
    match = _LEVEL.fullmatch(str(value).strip()) if isinstance(value, str | int | float) else None
    return int(match[1]) if match else None


def _shown(values: Mapping[str, object] | None) -> str:
    """The start of a row's values; a long value is not written out first."""
    some = {
        name: value[:_MAX_RAW_CHARS] if isinstance(value, str | list) else value
        for name, value in (values or {}).items()
    }
    return json.dumps(some, default=str)


def _most_common(result: IngestResult, split: str, reasons: Counter[Reason]) -> str:
    reason, count = reasons.most_common(1)[0]
    first = next(r for r in result.rejected if r.split == split and r.reason is reason)
    return f"{count} of them for {_words(reason)} (first: {first.origin})"
