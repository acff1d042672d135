"""Seeded problems behind `generated:` URIs: word problems by family, or reasoning-gym data sets.

The split of a problem is decided by a hash of its operands (reasoning-gym: of its question), never
by seed or count, so no two splits can share a problem however they are drawn. `train` teaches,
`validation` decides and `test` measures. `confirmation` is for one look before a release: nobody
chooses families, prompts or settings by it, so that its figure is not one of many tries. Families
that are `unseen` appear in test and confirmation alone.
"""

import functools
import hashlib
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.families import FAMILIES, operations_of
from sphere_ray.problems.families.family import WordProblem
from sphere_ray.problems.rows import parse_options

T = TypeVar("T")
Operands = tuple[int, ...]

SCHEME = "generated:"
ARITHMETIC = "arithmetic"
GYM = "reasoning-gym/"

_TENTHS: Mapping[str, range] = {
    "train": range(4),
    "confirmation": range(4, 5),
    "validation": range(5, 7),
    "test": range(7, 10),
}
"""Which tenths of the hash space belong to a split."""

_WITH_UNSEEN = ("test", "confirmation")

_WIDE_EVERY = 5
"""One of so many problems may have operands above its level's `small`."""

_MAX_MISSES = 2000
"""A reasoning-gym data set has ended after so many items in a row without a new problem."""

_GYM_SEED_STRIDE = 1_000_000
"""reasoning-gym makes item i of a data set from seed + i, so its seeds must lie far apart."""

_MAX_COUNT = 10_000_000

_ARITHMETIC_ONLY = ("levels", "families", "max_answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedSpec:
    """A parsed `generated:` URI; reasoning-gym has no use for the last two.

    `cells` are the families to draw from, each with a level. `max_answer` keeps problems whose
    answer is at most that (0: all).
    """

    source: str
    split: str
    seed: int
    count: int
    cells: tuple[tuple[str, int], ...] = ()
    max_answer: int = 0


def parse_generated(uri: str) -> GeneratedSpec:
    """Parse `generated:arithmetic?split=train&seed=0&count=300&levels=1,2&families=a,b,c/2`.

    `split` and `count` are required; `seed` is 0 unless given; `levels` is 1,2 and `families` all
    that the split may use; `c/2` takes family c at level 2 whatever `levels` says;
    `max_answer=4` keeps answers of at most 4.
    `generated:reasoning-gym/NAME` takes split, seed and count.

    Raises:
        ProblemSourceError: an unknown generator, family or parameter, or a bad value.
    """
    source, _, query = uri.removeprefix(SCHEME).partition("?")
    is_arithmetic = source == ARITHMETIC
    if not is_arithmetic and not (source.startswith(GYM) and source != GYM):
        raise ProblemSourceError(
            f"{uri}: there is no generator {source!r}; use {ARITHMETIC} or {GYM}NAME"
        )
    known = ("split", "seed", "count", *(_ARITHMETIC_ONLY if is_arithmetic else ()))
    values = parse_options(uri, query, known)
    split = values.get("split", "")
    if split not in _TENTHS:
        raise ProblemSourceError(
            f"{uri}: split is {split!r}; write split=train, validation, test or confirmation"
        )
    levels = _levels(uri, values.get("levels", "1,2"))
    cells = _cells(uri, split, levels, values.get("families"))
    return GeneratedSpec(
        source=source,
        split=split,
        seed=_number(uri, "seed", values.get("seed", "0"), 0),
        count=_number(uri, "count", values.get("count", ""), 1, _MAX_COUNT),
        cells=cells if is_arithmetic else (),
        max_answer=_number(uri, "max_answer", values.get("max_answer", "0"), 0),
    )


def _number(uri: str, name: str, text: str, least: int, most: int = 10**18) -> int:
    if not text.isdecimal() or len(text) > len(str(most)) or not least <= int(text) <= most:
        raise ProblemSourceError(
            f"{uri}: {name} is {text[:50]!r}; give a whole number of at least {least} and at most "
            f"{most:,}"
        )
    return int(text)


def _levels(uri: str, text: str) -> tuple[int, ...]:
    levels = tuple(dict.fromkeys(_number(uri, "levels", n, 1) for n in text.split(",")))
    highest = max(level for family in FAMILIES.values() for level in family.levels)
    if max(levels) > highest:
        raise ProblemSourceError(f"{uri}: there is no level {max(levels)}; levels are 1-{highest}")
    return levels


def _cells(
    uri: str, split: str, levels: tuple[int, ...], text: str | None
) -> tuple[tuple[str, int], ...]:
    """Return what to draw from: the families named, or all of the split; all have a level."""
    allowed = [f.name for f in FAMILIES.values() if split in _WITH_UNSEEN or not f.unseen]
    if text is None:
        return tuple((n, level) for level in levels for n in allowed if level in FAMILIES[n].levels)
    cells = []
    for entry in text.split(","):
        name, _, own = entry.partition("/")
        if name not in FAMILIES:
            raise ProblemSourceError(
                f"{uri}: there is no family {name!r}; families are {', '.join(FAMILIES)}"
            )
        if name not in allowed:
            raise ProblemSourceError(
                f"{uri}: family {name!r} is kept for {' and '.join(_WITH_UNSEEN)}; "
                "remove it from families"
            )
        wanted = (_number(uri, "level", own, 1),) if own else levels
        found = [(name, level) for level in wanted if level in FAMILIES[name].levels]
        if not found:
            raise ProblemSourceError(
                f"{uri}: family {name!r} has none of these levels; it has "
                f"{', '.join(map(str, FAMILIES[name].levels))} (write {name}/LEVEL)"
            )
        cells += found
    return tuple(dict.fromkeys(cells))


def generate_problems(
    spec: GeneratedSpec, examples: Collection[str] = ()
) -> Iterator[dict[str, object]]:
    """Yield `spec.count` rows with question, answer (text), family and level (None for a gym).

    No word problem has the operands of one of `examples`, the questions that a prompt shows.

    Raises:
        ProblemSourceError: the source has fewer distinct problems, or reasoning-gym is missing.
    """
    is_arithmetic = spec.source == ARITHMETIC
    rows = _word_rows(spec, examples) if is_arithmetic else _gym_rows(spec)
    missing = spec.count
    for row in itertools.islice(rows, spec.count):
        yield row
        missing -= 1
    if missing:
        more = " or add families and levels" if is_arithmetic else ""
        raise ProblemSourceError(
            f"{SCHEME}{spec.source} has only {spec.count - missing} distinct problems for "
            f"split={spec.split}; lower count (now {spec.count}){more}"
        )


def draw_problems(spec: GeneratedSpec, examples: Collection[str] = ()) -> Iterator[WordProblem]:
    """Yield all word problems there are for `spec`, none with the operands of an example.

    Operations take turns (see `operations_of`), and within each its families and levels do, so
    that a draw of any length is balanced. What has no more problems is left out of the turns.
    """
    known = {tuple(sorted(map(int, re.findall(r"\d+", text)))) for text in examples}
    operations = defaultdict(list)
    for name, level in spec.cells:
        cell = _draw_cell(spec, name, level, known)
        operations[operations_of(name, level)].append(cell)
    yield from _take_turns(_take_turns(cells) for cells in operations.values())


def _take_turns(sources: Iterable[Iterator[T]]) -> Iterator[T]:
    left = list(sources)
    while left:
        turn = [(source, next(source, None)) for source in left]
        left = [source for source, item in turn if item is not None]
        yield from (item for _, item in turn if item is not None)


def _split_of(text: str) -> str:
    """Return the one split that `text` belongs to, by its hash."""
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % 10
    return next(split for split, tenths in _TENTHS.items() if tenth in tenths)


def _word_rows(spec: GeneratedSpec, examples: Collection[str]) -> Iterator[dict[str, object]]:
    for problem in draw_problems(spec, examples):
        yield {
            "question": problem.question,
            "answer": str(problem.answer),
            "family": problem.family,
            "level": problem.level,
        }


def _draw_cell(
    spec: GeneratedSpec, name: str, level: int, known: Collection[Operands]
) -> Iterator[WordProblem]:
    """Yield problems of one family and level: one in `_WIDE_EVERY` has operands that are not small.

    So the numbers reach far, and a draw is as hard in every split and at every length.
    """
    form = FAMILIES[name].levels[level]
    small: list[Operands] = []
    wide: list[Operands] = []
    for operands in _operands_by_split(name, level)[spec.split]:
        if not spec.max_answer or (form.answer(operands) or 0) <= spec.max_answer:
            (small if max(operands) <= form.small else wide).append(operands)
    seed = f"{spec.seed}/{spec.split}/{name}/{level}"
    told = [_tell(name, level, pool, known, seed) for pool in (small, wide)]
    return _take_turns([told[0]] * (_WIDE_EVERY - 1) + [told[1]])


def _tell(
    name: str, level: int, pool: Sequence[Operands], known: Collection[Operands], seed: str
) -> Iterator[WordProblem]:
    """Yield problems until no new question turns up; all operands come once before one repeats.

    Told again in other words, operands make another problem.
    """
    order, asked = random.Random(f"{seed}/{pool[:1]}"), set[str]()
    for telling in itertools.count():
        before = len(asked)
        for operands in order.sample(pool, len(pool)):
            # A problem has its own random words: leaving one out changes no other.
            words = random.Random(f"{seed}/{operands}/{telling}")
            problem = FAMILIES[name].pose(level, operands, words)
            if problem.question not in asked and tuple(sorted(operands)) not in known:
                asked.add(problem.question)
                yield problem
        if len(asked) == before:
            return


@functools.cache
def _operands_by_split(name: str, level: int) -> Mapping[str, tuple[Operands, ...]]:
    """All operands of a family and level, by split.

    They decide the split in any order and in every family: no split repeats the sums of another.
    """
    found: dict[str, list[Operands]] = {split: [] for split in _TENTHS}
    for operands in FAMILIES[name].levels[level].all_operands():
        found[_split_of(",".join(map(str, sorted(operands))))].append(operands)
    return {split: tuple(each) for split, each in found.items()}


def _gym_rows(spec: GeneratedSpec) -> Iterator[dict[str, object]]:
    """Yield rows of a reasoning-gym data set whose question hashes into the split."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise ProblemSourceError(
            "generated:reasoning-gym needs the package reasoning-gym; "
            "install it with: pip install 'sphere-ray[reasoning-gym]'"
        ) from error
    name = spec.source.removeprefix(GYM)
    if name not in reasoning_gym.factory.DATASETS:
        raise ProblemSourceError(
            f"reasoning-gym has no data set {name!r}; its README lists the names, "
            "for example chain_sum, basic_arithmetic, gsm_symbolic"
        )
    items = reasoning_gym.create_dataset(
        name, seed=spec.seed * _GYM_SEED_STRIDE, size=_GYM_SEED_STRIDE
    )
    seen, misses = set[str](), 0
    for item in items:
        question = item["question"]
        if question in seen or _split_of(question) != spec.split:
            misses += 1
            if misses == _MAX_MISSES:
                return
            continue
        misses = 0
        seen.add(question)
        yield {"question": question, "answer": str(item["answer"]), "family": name, "level": None}
