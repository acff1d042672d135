"""The parts of a family of word problems, and how one problem is made of them.

A level is data: ranges of operands, a short program of arithmetic steps, and the sentences that
tell it. Knows nothing of splits, URIs or counts.
"""

import itertools
import operator
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import cleandoc

from sphere_ray.problems.families.words import PEOPLE, WORDS

_OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}

Story = tuple[tuple[str, ...], ...]
"""The parts of a story in order, each with alternative wordings."""


def told(text: str) -> Story:
    """Read a story: a blank line ends a part, each line of a part is one alternative.

    A line that is indented continues the line before it.
    """
    parts = re.sub(r"\n +", " ", cleandoc(text)).split("\n\n")
    return tuple(tuple(part.splitlines()) for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordProblem:
    """A drawn problem; `operands` are in the order of its level."""

    family: str
    level: int
    question: str
    answer: int
    operands: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One difficulty.

    `operands` maps names to inclusive ranges. `steps` are assignments between semicolons, such as
    "left = start - given"; the last one gives the answer. Every result lies in `least`..`limit`.
    Where `small` is given, operands up to it make most problems: a small model solves those.
    """

    operands: Mapping[str, tuple[int, int]]
    steps: str
    story: Story
    limit: int = 20
    least: int = 1
    small: int = 0

    def all_operands(self) -> Iterator[tuple[int, ...]]:
        """Yield all operands with which every step stays a whole number in range."""
        ranges = (range(low, high + 1) for low, high in self.operands.values())
        return (each for each in itertools.product(*ranges) if self.answer(each) is not None)

    def answer(self, operands: tuple[int, ...]) -> int | None:
        """Carry out the steps; None when a result is not whole or out of range."""
        values = dict(zip(self.operands, operands, strict=True))
        result = None
        for step in self.steps.split("; "):
            name, _, left, symbol, right = step.split()
            a, b = values[left], values[right]
            values[name] = result = _OPERATORS[symbol](a, b)
            if not self.least <= result <= self.limit or (symbol == "/" and a % b):
                return None
        return result

    def operations(self) -> tuple[str, ...]:
        """The symbols of the steps in order: `("*", "+")` for "p = a * b; total = p + c"."""
        return tuple(step.split()[3] for step in self.steps.split("; "))

    def tell(self, operands: tuple[int, ...], rng: random.Random, words: Mapping[str, str]) -> str:
        """Put the operands into a story; `words` maps slots to the word lists they draw from."""
        slots: dict[str, object] = dict(zip(self.operands, operands, strict=True))
        people = rng.sample(PEOPLE, 3)
        slots.update(who=people[0], who2=people[1], who3=people[2])
        for slot, kind in words.items():
            first, second = rng.sample(WORDS[kind], 2)
            slots.update({slot: first, f"{slot}2": second})
        return " ".join(rng.choice(alternatives) for alternatives in self.story).format(**slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Problems with one underlying idea; the level is the number of arithmetic steps.

    `words` maps a story slot to a word list (slot "item" also fills "item2" with another word).
    An `unseen` family appears in splits that only measure.
    """

    name: str
    words: Mapping[str, str]
    levels: Mapping[int, Level]
    unseen: bool = False

    def pose(self, level: int, operands: tuple[int, ...], rng: random.Random) -> WordProblem:
        """Tell a problem of `level` with operands that are among `all_operands` of this level."""
        answer = self.levels[level].answer(operands)
        assert answer is not None
        return WordProblem(
            family=self.name,
            level=level,
            question=self.levels[level].tell(operands, rng, self.words),
            answer=answer,
            operands=operands,
        )
