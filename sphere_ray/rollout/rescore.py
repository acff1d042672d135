"""The steps of recorded rollouts scored again by another source: rollouts in, score rows out."""

from collections.abc import Iterator
from typing import TypeAlias

import pyarrow as pa

from sphere_ray.errors import RowError
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.ports import ScoreRequest
from sphere_ray.method.prompts import question_messages
from sphere_ray.method.seeds import derive_seed
from sphere_ray.records import Candidate, Rollout, ScoreRow, StepScore
from sphere_ray.rollout.stages import Assignment, RowStage, reason_of, rollouts_of
from sphere_ray.schema import to_table

Siblings: TypeAlias = tuple[tuple[Candidate, ...], tuple[Candidate, ...]]
"""The steps before, and the alternatives that were scored."""


class Rescore(RowStage):
    """Asks the assignment's scorer about every step that has a reward, once each."""

    def __init__(self, assignment: Assignment, *, last: bool = True) -> None:
        """Build the scorer once per stage actor."""
        super().__init__(assignment, last=last)
        self._scorer = assignment.scorer()
        self._prompts = assignment.settings.method.prompts
        self._seed = assignment.settings.seed

    def read(self, table: pa.Table) -> list[Rollout]:
        """See `RowStage.read`."""
        return rollouts_of(table)

    async def work(self, row: Rollout) -> ScoreRow:
        """See `RowStage.work`; a failed rollout keeps its error and is not scored."""
        if row.error is not None:
            return ScoreRow(problem_id=row.problem.problem_id, error=row.error)
        scored = await gather_or_cancel(
            self._scored(row, siblings, index)
            for index, siblings in enumerate(dict.fromkeys(_siblings(row)))
        )
        return ScoreRow(
            problem_id=row.problem.problem_id,
            scores=tuple(score for scores, _ in scored for score in scores),
            tokens=sum(tokens for _, tokens in scored),
        )

    def failed(self, row: Rollout, error: RowError) -> ScoreRow:
        """See `RowStage.failed`."""
        return ScoreRow(problem_id=row.problem.problem_id, error=reason_of(error))

    def write(self, rows: list[ScoreRow]) -> pa.Table:
        """See `RowStage.write`."""
        return to_table(rows, ScoreRow)

    async def _scored(
        self, rollout: Rollout, siblings: Siblings, index: int
    ) -> tuple[list[StepScore], int]:
        """Return the scores of one set of siblings, and the tokens decoded for them."""
        prefix, candidates = siblings
        scores = await self._scorer.score(
            ScoreRequest(
                problem=rollout.problem,
                messages=question_messages(rollout.problem.question, self._prompts),
                prefix=prefix,
                candidates=candidates,
                seed=derive_seed(self._seed, rollout.problem.problem_id, index),
            )
        )
        self._progress.add(steps=len(candidates))
        before = tuple(step.text for step in prefix)
        found = [
            StepScore(prefix=before, text=candidate.text, reward=score.reward)
            for candidate, score in zip(candidates, scores, strict=True)
        ]
        return found, sum(score.tokens for score in scores)


def _siblings(rollout: Rollout) -> Iterator[Siblings]:
    """Every set of siblings of a rollout with a reward; chains repeat those that they share."""
    for chain in rollout.chains:
        for depth, step in enumerate(chain.steps):
            scored = tuple(c for c in step.candidates if c.reward is not None)
            if scored:
                yield tuple(before.candidate for before in chain.steps[:depth]), scored
