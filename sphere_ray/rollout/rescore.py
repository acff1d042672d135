"""Recorded rollouts scored again by another source: one row in, the same row with audits out."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeAlias

import pyarrow as pa

from sphere_ray.errors import RowError
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.ports import Scorer, ScoreRequest
from sphere_ray.method.prompts import question_messages
from sphere_ray.method.seeds import derive_seed
from sphere_ray.records import Candidate, Chain, Rollout, Step
from sphere_ray.rollout.stages import Assignment, rollout_table, rollouts_of, within

Siblings: TypeAlias = tuple[tuple[Candidate, ...], tuple[Candidate, ...]]
"""The steps before, and the alternatives that were scored."""


class Rescore:
    """Ask the assignment's scorer about every step that has a reward; the reward itself stays.

    `Candidate.audit` becomes what the source says, `Rollout.tokens` what it decoded for that.
    """

    def __init__(self, assignment: Assignment) -> None:
        """Build the scorer once per stage actor."""
        self._context = assignment.context()
        self._timeout_s = assignment.problem_timeout_s

    async def __call__(self, table: pa.Table) -> AsyncIterator[pa.Table]:
        """Score all rows of a batch at once."""
        rows = await gather_or_cancel(self._row(rollout) for rollout in rollouts_of(table))
        self._context.progress.add(problems=len(rows))
        yield rollout_table(list(rows))

    async def _row(self, rollout: Rollout) -> Rollout:
        if rollout.error is not None:
            return rollout
        try:
            return await within(self._rescored(rollout), self._timeout_s)
        except RowError as error:
            self._context.progress.add(errors=1)
            return replace(rollout, error=f"{type(error).__name__}: {error}")

    async def _rescored(self, rollout: Rollout) -> Rollout:
        sets = list(dict.fromkeys(each for chain in rollout.chains for each in _sets(chain)))
        found = await gather_or_cancel(
            self._audits(rollout, siblings, place) for place, siblings in enumerate(sets)
        )
        audited = {siblings: audits for siblings, (audits, _) in zip(sets, found, strict=True)}
        chains = tuple(_with_audits(chain, audited) for chain in rollout.chains)
        return replace(rollout, chains=chains, tokens=sum(spent for _, spent in found))

    async def _audits(
        self, rollout: Rollout, siblings: Siblings, place: int
    ) -> tuple[dict[Candidate, float], int]:
        scorer: Scorer = self._context.scorer
        prefix, candidates = siblings
        scores = await scorer.score(
            ScoreRequest(
                problem=rollout.problem,
                messages=question_messages(
                    rollout.problem.question, self._context.settings.prompts
                ),
                prefix=prefix,
                candidates=candidates,
                seed=derive_seed(self._context.run_seed, rollout.problem.problem_id, place),
            )
        )
        self._context.progress.add(steps=len(candidates))
        audits = {c: s.reward for c, s in zip(candidates, scores, strict=True)}
        return audits, sum(score.tokens for score in scores)


def _sets(chain: Chain) -> list[Siblings]:
    return [
        (_before(chain, depth), scored)
        for depth, step in enumerate(chain.steps)
        if (scored := _scored(step))
    ]


def _before(chain: Chain, depth: int) -> tuple[Candidate, ...]:
    return tuple(step.candidate for step in chain.steps[:depth])


def _scored(step: Step) -> tuple[Candidate, ...]:
    return tuple(candidate for candidate in step.candidates if candidate.reward is not None)


def _with_audits(chain: Chain, audited: dict[Siblings, dict[Candidate, float]]) -> Chain:
    steps = []
    for depth, step in enumerate(chain.steps):
        audits = audited.get((_before(chain, depth), _scored(step)), {})
        candidates = tuple(
            replace(candidate, audit=audits.get(candidate)) for candidate in step.candidates
        )
        steps.append(replace(step, candidates=candidates))
    return replace(chain, steps=tuple(steps))
