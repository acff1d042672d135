"""What the method needs from outside, as protocols, and the messages that cross them.

Nothing here knows of Ray, vLLM, files or clocks. Engines implement these protocols, and so do the
fakes of the tests.
"""

from dataclasses import dataclass
from typing import Protocol

from sphere_ray.records import Candidate, Completion, Message, Problem, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """Ask for `n` continuations of a prompt.

    `messages` end with a user turn. `prefix_ids` are the tokens of the answer so far.
    `stop` lists strings that end a step and are kept in the output. `max_tokens` bounds each
    sample. `problem_id` keeps a problem on one replica. A smaller `priority` is served first.
    `seed` is derived from identity; only deterministic engines use it.
    """

    problem_id: str
    messages: tuple[Message, ...]
    prefix_ids: tuple[int, ...] = ()
    n: int
    temperature: float
    top_p: float = 1.0
    max_tokens: int
    stop: tuple[str, ...] = ()
    seed: int
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Ask for the reward of each of `candidates` as the next step after `prefix`.

    `messages` are the plain question as the policy sees it. `prefix` holds the steps before.
    """

    problem: Problem
    messages: tuple[Message, ...]
    prefix: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    seed: int
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A reward in [0, 1], the outcomes behind it if any, and the tokens decoded to get it.

    `completions` are the graded solutions behind the outcomes, where the source kept them.
    `audit` is the reward of the original source, where the trained reward model gave `reward` and
    the original source was asked as well.
    """

    reward: float
    values: tuple[float, ...] | None = None
    audit: float | None = None
    completions: tuple[Completion, ...] | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A verdict and the extracted answer."""

    verdict: Verdict
    answer: str | None


class Generator(Protocol):
    """Proposes text."""

    @property
    def model(self) -> str:
        """Name of the model, recorded with each chain."""
        ...

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        """Return exactly `request.n` candidates with `reward` unset.

        Raises:
            RowError: this request failed for good.
            EngineError: the engine is gone.
        """
        ...


class Scorer(Protocol):
    """Judges steps."""

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """Return one score per candidate, in order.

        Raises:
            RowError: this request failed for good.
            EngineError: the engine is gone.
        """
        ...


class Grader(Protocol):
    """Judges final answers."""

    async def grade(self, response: str, gold: str) -> Grade:
        """Grade the final answer stated in `response` against `gold`.

        Raises:
            GraderError: the grader is gone (a slow or unparsable answer is a verdict instead).
        """
        ...

    async def same(self, answer: str, other: str) -> bool:
        """Whether two stated answers (`Grade.answer`) certainly say the same.

        A user's verifier compares responses with golds only; then equal texts alone are the same.

        Raises:
            GraderError: the grader is gone.
        """
        ...


class Progress(Protocol):
    """Receives counts as they happen."""

    def add(self, **counts: int) -> None:
        """Add to named counters, e.g. `add(chains=2, tokens=311)`."""
        ...
