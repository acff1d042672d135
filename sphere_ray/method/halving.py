"""Successive halving (Jamieson & Talwalkar, arXiv 1502.07943): a full trial only for the best.

Pure: it says who is tried and at what cost, and whoever tries them gives back scores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TypeAlias

DEFAULT = 0
"""The candidate that stays to the last rung, so that the choice scores no less than it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """These candidates get this share (0 to 1] of the full effort each."""

    candidates: tuple[int, ...]
    share: Fraction

    @property
    def last(self) -> bool:
        """Whether the best of this rung is the choice."""
        return self.share == 1

    def part_of(self, full: int) -> int:
        """The rung's share of `full` epochs or batches, at least one."""
        return max(ceil(self.share * full), 1)


Scores: TypeAlias = Mapping[int, float | None]
"""The score of each candidate of a rung; None is out at once, for example a collapsed training."""


def halve(num_candidates: int, trial: Callable[[Rung], Scores]) -> int | None:
    """Return the best of the candidates 0, 1, ..., asking `trial` for the scores of each rung.

    The better half of a rung, and `DEFAULT`, goes on to the next one with twice the effort. Two
    candidates, or one, get all of it. Of equal scores the smaller number is the better. None if
    all candidates are out.
    """
    rung = _rung(range(num_candidates))
    while rung.candidates:
        scores = trial(rung)
        ranked = ranking(scores)
        if rung.last:
            return ranked[0] if ranked else None
        kept = ranked[: ceil(len(rung.candidates) / 2)]
        if DEFAULT in ranked and DEFAULT not in kept:
            kept[-1] = DEFAULT
        rung = _rung(kept)
    return None


def ranking(scores: Scores) -> list[int]:
    """The candidates that have a score, the best first."""
    scored = {number: score for number, score in scores.items() if score is not None}
    return sorted(scored, key=lambda number: (-scored[number], number))


def _rung(candidates: Sequence[int]) -> Rung:
    halvings = max((len(candidates) - 1).bit_length() - 1, 0)  # until two are left
    return Rung(candidates=tuple(sorted(candidates)), share=Fraction(1, 2**halvings))
