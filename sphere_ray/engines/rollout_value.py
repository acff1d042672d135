"""Rollout values (Math-Shepherd, arXiv 2312.08935): how often K completions reach the gold answer.

Pure asyncio over a generator and a grader; it runs with the stages and needs no pool of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sphere_ray.config.method import SearchSettings
from sphere_ray.config.scorers import RolloutValueSettings
from sphere_ray.errors import DeadlineExceededError
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.ports import (
    GenerateRequest,
    Generator,
    Grader,
    Score,
    Scorer,
    ScoreRequest,
)
from sphere_ray.method.seeds import derive_seed
from sphere_ray.method.steps import is_final
from sphere_ray.records import Candidate, StopReason, Verdict
from sphere_ray.reward.sources import RewardSource, Surroundings


class RolloutValueSource(RewardSource[RolloutValueSettings]):
    """The policy's own engine completes the steps."""

    def scorer(self, around: Surroundings) -> Scorer:
        """See `RewardSource.scorer`."""
        return RolloutValueScorer(around.generator, around.grader, self.settings, around.search)


@dataclass(frozen=True, slots=True)
class RolloutValueScorer:
    """The port `Scorer`. The reward of a step is the share of completions graded correct.

    A candidate that ends the chain is graded itself, which costs no tokens. A candidate that uses
    up the chain's tokens without an answer is worth 0. Completions on which the grader ran out of
    time are left out of the share; any other verdict but correct does not reach the gold.
    """

    generator: Generator
    grader: Grader
    settings: RolloutValueSettings
    limits: SearchSettings

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`; all candidates and completions at once."""
        return await gather_or_cancel(
            self._score(request, index) for index in range(len(request.candidates))
        )

    async def _score(self, request: ScoreRequest, index: int) -> Score:
        candidate = request.candidates[index]
        so_far = (*request.prefix, candidate)
        text = "".join(step.text for step in so_far)
        token_ids = tuple(token for step in so_far for token in step.token_ids)
        room = self.limits.max_chain_tokens - len(token_ids)
        if is_final(candidate):
            return _score([await self._reaches(text, request)])
        if room < 1:
            return _score([0.0])
        completions = await self.generator.generate(
            self._completions_of(request, index, token_ids, room)
        )
        values = await gather_or_cancel(
            self._value(text, completion, request) for completion in completions
        )
        return _score(values, tokens=sum(len(completion.token_ids) for completion in completions))

    def _completions_of(
        self, request: ScoreRequest, index: int, token_ids: tuple[int, ...], room: int
    ) -> GenerateRequest:
        return GenerateRequest(
            problem_id=request.problem.problem_id,
            messages=request.messages,
            prefix_ids=token_ids,
            n=self.settings.num_completions,
            temperature=self.settings.temperature,
            max_tokens=room,
            seed=derive_seed(request.seed, "completions", index),
            priority=request.priority,
        )

    async def _value(self, text: str, completion: Candidate, request: ScoreRequest) -> float | None:
        if completion.stop_reason is StopReason.LENGTH:
            return 0.0  # a number that was cut may look like the answer
        return await self._reaches(text + completion.text, request)

    async def _reaches(self, response: str, request: ScoreRequest) -> float | None:
        grade = await self.grader.grade(response, request.problem.answer)
        return None if grade.verdict is Verdict.TIMEOUT else float(grade.verdict is Verdict.CORRECT)


def _score(values: Sequence[float | None], tokens: int = 0) -> Score:
    decided = tuple(value for value in values if value is not None)
    if not decided:
        raise DeadlineExceededError("the grader ran out of time on everything a step led to")
    return Score(reward=sum(decided) / len(decided), values=decided, tokens=tokens)
