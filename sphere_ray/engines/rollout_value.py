"""Rollout values (Math-Shepherd, arXiv 2312.08935): how often K completions reach the gold answer.

Pure asyncio over a generator and a grader; it runs with the stages and needs no pool of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from sphere_ray.records import Candidate, Completion, StopReason, Verdict
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
    time are left out of the share; any other verdict but correct does not reach the gold. The
    completions are kept: each is a whole solution by the policy, paid for and graded.
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
            end = replace(candidate, text="", token_ids=(), logprob=0.0)
            return _score([await self._completed(text, end, request)])
        if room < 1:
            return Score(reward=0.0, values=(0.0,))
        sampled = await self.generator.generate(
            self._completions_of(request, index, token_ids, room)
        )
        return _score(
            await gather_or_cancel(self._completed(text, each, request) for each in sampled)
        )

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

    async def _completed(self, text: str, rest: Candidate, request: ScoreRequest) -> Completion:
        verdict = Verdict.TRUNCATED  # a number that was cut may look like the answer
        if rest.stop_reason is not StopReason.LENGTH:
            grade = await self.grader.grade(text + rest.text, request.problem.answer)
            verdict = grade.verdict
        return Completion(
            text=rest.text,
            token_ids=rest.token_ids,
            logprob=rest.logprob,
            stop_reason=rest.stop_reason,
            verdict=verdict,
        )


def _score(completions: Sequence[Completion]) -> Score:
    verdicts = [each.verdict for each in completions if each.verdict is not Verdict.TIMEOUT]
    if not verdicts:
        raise DeadlineExceededError("the grader ran out of time on everything a step led to")
    values = tuple(float(verdict is Verdict.CORRECT) for verdict in verdicts)
    return Score(
        reward=sum(values) / len(values),
        values=values,
        completions=tuple(completions),
        tokens=sum(len(each.token_ids) for each in completions),
    )
