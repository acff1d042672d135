"""The parts of a family of word problems, and how one problem is drawn from them.

A level is data: operand ranges, a short program of arithmetic steps, and the sentences that tell
it. Knows nothing of splits, URIs or counts.
"""

import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sphere_ray.problems.families.words import PEOPLE, WORDS

_OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One arithmetic step with its numbers filled in, e.g. 12 + 7 = 19."""

    left: int
    symbol: str
    right: int
    result: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WordProblem:
    """A drawn problem; `operands` are in the order of the level, `trace` ends in the answer."""

    family: str
    level: int
    question: str
    answer: int
    operands: tuple[int, ...]
    trace: tuple[Operation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One difficulty.

    `operands` maps names to inclusive ranges. `steps` are assignments such as
    "left = start - given"; the last one is the answer. `story` is a sequence of parts, each with
    alternative sentences, joined by spaces. Every number along the way lies in 1..`limit`.
    """

    operands: Mapping[str, tuple[int, int]]
    steps: tuple[str, ...]
    story: tuple[tuple[str, ...], ...]
    limit: int = 50

    def draw_operands(self, rng: random.Random) -> tuple[int, ...]:
        """Draw operands until every step stays a whole number in range."""
        while True:
            operands = tuple(rng.randint(low, high) for low, high in self.operands.values())
            if self.trace(operands) is not None:
                return operands

    def trace(self, operands: tuple[int, ...]) -> tuple[Operation, ...] | None:
        """Carry out the steps; None when a result is not whole or out of range."""
        values = dict(zip(self.operands, operands, strict=True))
        done = []
        for step in self.steps:
            name, _, left, symbol, right = step.split()
            a, b = values[left], values[right]
            result = _OPERATORS[symbol](a, b)
            if not 1 <= result <= self.limit or (symbol == "/" and a % b):
                return None
            values[name] = result
            done.append(Operation(left=a, symbol=symbol, right=b, result=result))
        return tuple(done)

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
    An `unseen` family appears in test splits alone.
    """

    name: str
    levels: Mapping[int, Level]
    words: Mapping[str, str] = field(default_factory=dict)
    unseen: bool = False

    def draw(self, level: int, rng: random.Random) -> WordProblem:
        """Draw one problem of `level`."""
        chosen = self.levels[level]
        operands = chosen.draw_operands(rng)
        return self.pose(level, operands, rng)

    def pose(self, level: int, operands: tuple[int, ...], rng: random.Random) -> WordProblem:
        """Tell the problem with these operands.

        Raises:
            ValueError: the operands do not give whole numbers in range.
        """
        chosen = self.levels[level]
        trace = chosen.trace(operands)
        if trace is None:
            raise ValueError(f"{self.name} level {level} has no problem with operands {operands}")
        return WordProblem(
            family=self.name,
            level=level,
            question=chosen.tell(operands, rng, self.words),
            answer=trace[-1].result,
            operands=operands,
            trace=trace,
        )
