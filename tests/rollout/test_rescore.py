"""Recorded rollouts scored again: every step once, in rows of their own."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sphere_ray.config.method import MethodSettings
from sphere_ray.errors import RequestError
from sphere_ray.method.ports import Score, ScoreRequest
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    FinishReason,
    Problem,
    Rollout,
    ScoreRow,
    StageName,
    Step,
    StepScore,
    StopReason,
    Verdict,
)
from sphere_ray.rollout.rescore import Rescore
from sphere_ray.rollout.stages import rollout_table
from sphere_ray.schema import from_table

PROBLEM = Problem(problem_id="p", question="2 + 2?", answer="4", source="test")


def candidate(text: str, reward: float | None = 0.5) -> Candidate:
    return Candidate(
        text=text, token_ids=(1,), logprob=-1.0, stop_reason=StopReason.BOUNDARY, reward=reward
    )


def chain(*steps: Step, branch: Branch = Branch.MAX) -> Chain:
    return Chain(
        chain_id=f"p:{branch}",
        stage=StageName.SELF_GENERATION,
        branch=branch,
        model="m",
        steps=steps,
        answer=None,
        verdict=Verdict.WRONG,
        finish_reason=FinishReason.ANSWER,
        num_tokens=1,
        seed=0,
    )


FIRST = (candidate("a"), candidate("bb"), candidate("cut", None))
ROLLOUT = Rollout(
    problem=PROBLEM,
    chains=(
        chain(Step(candidates=FIRST, chosen=0), Step(candidates=(candidate("dddd"),), chosen=0)),
        chain(Step(candidates=FIRST, chosen=1), branch=Branch.MIN),
    ),
    tokens=99,
)


class Longest:
    """The reward is the length of the text in tenths; two tokens a step."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        self.asked.append(tuple(c.text for c in request.candidates))
        if "bad" in self.asked[-1]:
            raise RequestError("nonsense")
        return tuple(Score(reward=len(c.text) / 10, tokens=2) for c in request.candidates)


def rescored(scorer: Longest, *rollouts: Rollout) -> list[ScoreRow]:
    settings = SimpleNamespace(
        method=MethodSettings(), seed=0, rollout=SimpleNamespace(problem_timeout_s=10.0)
    )
    assignment: Any = SimpleNamespace(
        settings=settings,
        start=0,
        scorer=lambda: scorer,
        progress=SimpleNamespace(add=lambda **_: None),
    )
    tables = Rescore(assignment)(rollout_table(list(rollouts)))
    return [row for table in tables for row in from_table(table, ScoreRow)]


def test_every_scored_step_is_asked_for_once_and_named_by_the_steps_before_it() -> None:
    scorer = Longest()
    (row,) = rescored(scorer, ROLLOUT)
    assert sorted(scorer.asked) == [("a", "bb"), ("dddd",)]
    assert row == ScoreRow(
        problem_id="p",
        scores=(
            StepScore(prefix=(), text="a", reward=0.1),
            StepScore(prefix=(), text="bb", reward=0.2),
            StepScore(prefix=("a",), text="dddd", reward=0.4),
        ),
        tokens=6,
    )


def test_a_row_that_cannot_be_scored_says_so_and_the_others_are() -> None:
    bad = replace(ROLLOUT, chains=(chain(Step(candidates=(candidate("bad"),), chosen=0)),))
    rows = rescored(Longest(), bad, ROLLOUT)
    assert sorted(row.error or "" for row in rows) == ["", "RequestError: nonsense"]
    (untouched,) = rescored(Longest(), replace(ROLLOUT, error="earlier"))
    assert untouched == ScoreRow(problem_id="p", error="earlier")


@pytest.mark.parametrize("chains", [(), (chain(),)])
def test_a_row_without_scored_steps_costs_nothing(chains: tuple[Chain, ...]) -> None:
    (row,) = rescored(Longest(), replace(ROLLOUT, chains=chains))
    assert row == ScoreRow(problem_id="p")
