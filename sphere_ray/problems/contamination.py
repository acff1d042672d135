"""Finds training problems that say what a held-out problem says.

`generated:` sources never meet each other: their splits have no operands in common by construction,
but their templates, which would be taken for copies. Against other sources they are compared.
"""

from dataclasses import dataclass, field

from sphere_ray.problems.generated import SCHEME
from sphere_ray.records import Problem
from sphere_ray.similar_texts import SimilarTexts


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A training problem and the held-out one that it met; `shared` is what they have in common."""

    origin: str
    question: str
    met_split: str
    met_source: str
    met_id: str
    met_question: str
    shared: str

    @property
    def sentence(self) -> str:
        """What happened, for the rejected row."""
        return f"it meets problem {self.met_id} of {self.met_split}: {self.shared}"


@dataclass(slots=True)
class _Index:
    problems: list[tuple[str, Problem]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    texts: SimilarTexts = field(default_factory=SimilarTexts)

    def find(self, question: str) -> tuple[int, str] | None:
        """The place of a problem that asks the same, and what both have in common."""
        if (place := self.places.get(question)) is not None:
            return place, "the whole question"
        return self.texts.find(question)


class HeldOut:
    """Held-out problems, and whether a training problem meets one of them (see `SimilarTexts`)."""

    def __init__(self) -> None:
        """Know no problem yet."""
        self._given = _Index()
        self._generated = _Index()

    def add(self, problem: Problem, split: str) -> None:
        """Hold a problem out."""
        index = self._generated if problem.source.startswith(SCHEME) else self._given
        index.places.setdefault(problem.question, len(index.problems))
        index.problems.append((split, problem))
        index.texts.add(problem.question)

    def meets(self, problem: Problem, origin: str) -> Overlap | None:
        """The overlap of a training problem with a held-out one, if there is one."""
        is_generated = problem.source.startswith(SCHEME)
        for index in (self._given,) if is_generated else (self._given, self._generated):
            if (found := index.find(problem.question)) is not None:
                number, shared = found
                split, met = index.problems[number]
                return Overlap(
                    origin=origin,
                    question=problem.question,
                    met_split=split,
                    met_source=met.source,
                    met_id=met.problem_id,
                    met_question=met.question,
                    shared=shared,
                )
        return None
