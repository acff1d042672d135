"""Seeded problems behind `generated:` URIs: word problems by family, or reasoning-gym data sets.

The split of a problem is decided by a hash of its content, never by seed or count, so no two
splits can share a problem however they are drawn.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.families import FAMILIES
from sphere_ray.problems.families.family import WordProblem
from sphere_ray.problems.rows import parse_options

T = TypeVar("T")

SCHEME = "generated:"
ARITHMETIC = "arithmetic"
GYM = "reasoning-gym/"

_TENTHS: Mapping[str, range] = {
    "train": range(5),
    "validation": range(5, 7),
    "test": range(7, 10),
}
"""Which tenths of the hash space belong to a split."""

_MAX_MISSES = 2000
"""A source counts as exhausted after so many draws in a row without a new problem."""

_GYM_SEED_STRIDE = 1_000_000
"""reasoning-gym makes item i of a data set from seed + i, so its seeds must lie far apart."""

_ARITHMETIC_ONLY = ("levels", "families", "max_answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedSpec:
    """A parsed `generated:` URI; reasoning-gym has no use for the last three.

    `max_answer` keeps problems whose answer is at most that (0: all).
    """

    source: str
    split: str
    seed: int
    count: int
    families: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    max_answer: int = 0


def parse_generated(uri: str) -> GeneratedSpec:
    """Parse `generated:arithmetic?split=train&seed=0&count=300&levels=1,2&families=a,b`.

    `split` and `count` are required; `seed` is 0 unless given; `levels` is 1,2 and `families` all
    that the split may use; `max_answer=4` keeps answers of at most 4.
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
            f"{uri}: split is {split!r}; write split=train, split=validation or split=test"
        )
    levels = _levels(uri, values.get("levels", "1,2"))
    families = _families(uri, split, levels, values.get("families"))
    return GeneratedSpec(
        source=source,
        split=split,
        seed=_number(uri, "seed", values.get("seed", "0"), 0),
        count=_number(uri, "count", values.get("count", ""), 1),
        families=families if is_arithmetic else (),
        levels=levels if is_arithmetic else (),
        max_answer=_number(uri, "max_answer", values.get("max_answer", "0"), 0),
    )


def _number(uri: str, name: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ProblemSourceError(
            f"{uri}: {name} is {text!r}; give a whole number of at least {least}"
        )
    return int(text)


def _levels(uri: str, text: str) -> tuple[int, ...]:
    levels = tuple(dict.fromkeys(_number(uri, "levels", n, 1) for n in text.split(",")))
    highest = max(level for family in FAMILIES.values() for level in family.levels)
    if max(levels) > highest:
        raise ProblemSourceError(f"{uri}: there is no level {max(levels)}; levels are 1-{highest}")
    return levels


def _families(uri: str, split: str, levels: tuple[int, ...], text: str | None) -> tuple[str, ...]:
    """Return the families to draw from: those named, or all of the split; all have a level."""
    allowed = [f.name for f in FAMILIES.values() if split == "test" or not f.unseen]
    if text is None:
        return tuple(name for name in allowed if set(levels) & set(FAMILIES[name].levels))
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in FAMILIES:
            raise ProblemSourceError(
                f"{uri}: there is no family {name!r}; families are {', '.join(FAMILIES)}"
            )
        if name not in allowed:
            raise ProblemSourceError(
                f"{uri}: family {name!r} is kept for split=test; remove it from families"
            )
        if not set(levels) & set(FAMILIES[name].levels):
            raise ProblemSourceError(
                f"{uri}: family {name!r} has none of these levels; "
                f"it has {', '.join(map(str, FAMILIES[name].levels))}"
            )
    return names


def generate_problems(spec: GeneratedSpec) -> Iterator[dict[str, object]]:
    """Yield `spec.count` rows with question, answer (text), family and level (None for a gym).

    Raises:
        ProblemSourceError: the source has fewer distinct problems, or reasoning-gym is missing.
    """
    is_arithmetic = spec.source == ARITHMETIC
    rows = _word_rows(spec) if is_arithmetic else _gym_rows(spec)
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


def draw_problems(spec: GeneratedSpec) -> Iterator[WordProblem]:
    """Yield all word problems there are for `spec`, taking turns over families and levels.

    Within a family and level no operands repeat. When a family and level has no more operands,
    the others go on without it.
    """
    cells = [
        _draw_cell(spec, name, level)
        for level in spec.levels
        for name in spec.families
        if level in FAMILIES[name].levels
    ]
    while cells:
        turn = [(cell, next(cell, None)) for cell in cells]
        cells = [cell for cell, problem in turn if problem]
        yield from (problem for _, problem in turn if problem)


def _split_of(text: str) -> str:
    """Return the one split that `text` belongs to, by its hash."""
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % 10
    return next(split for split, tenths in _TENTHS.items() if tenth in tenths)


def _word_rows(spec: GeneratedSpec) -> Iterator[dict[str, object]]:
    for problem in draw_problems(spec):
        yield {
            "question": problem.question,
            "answer": str(problem.answer),
            "family": problem.family,
            "level": problem.level,
        }


def _draw_cell(spec: GeneratedSpec, name: str, level: int) -> Iterator[WordProblem]:
    """Yield problems of one family and level until new operands no longer turn up.

    Operands decide the split in any order and in every family: no split repeats the sums of
    another.
    """
    rng = random.Random(f"{spec.seed}/{spec.split}/{name}/{level}")
    family = FAMILIES[name]
    draws = (family.levels[level].draw_operands(rng) for _ in itertools.count())
    for operands in _new(
        draws, spec.split, lambda drawn: (drawn, ",".join(map(str, sorted(drawn))))
    ):
        problem = family.pose(level, operands, rng)
        if not spec.max_answer or problem.answer <= spec.max_answer:
            yield problem


def _new(draws: Iterable[T], split: str, key: Callable[[T], tuple[Hashable, str]]) -> Iterator[T]:
    """Yield the draws of a split that were not drawn before, until no new ones turn up.

    `key` gives what makes a draw the same as another, and the text whose hash is its split.
    """
    seen, misses = set[Hashable](), 0
    for draw in draws:
        identity, text = key(draw)
        if identity in seen or _split_of(text) != split:
            misses += 1
            if misses == _MAX_MISSES:
                return
        else:
            misses = 0
            seen.add(identity)
            yield draw


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
    for item in _new(items, spec.split, lambda item: (item["question"], item["question"])):
        answer = str(item["answer"])
        yield {"question": item["question"], "answer": answer, "family": name, "level": None}
