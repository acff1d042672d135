"""Recorded rollouts scored again: what another source says stands beside the reward it judges."""

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
    StageName,
    Step,
    StopReason,
    Verdict,
)
from sphere_ray.rollout.rescore import Rescore
from sphere_ray.rollout.stages import rollout_table, rollouts_of

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


async def rescored(scorer: Longest, *rollouts: Rollout) -> list[Rollout]:
    context = SimpleNamespace(
        scorer=scorer,
        settings=MethodSettings(),
        run_seed=0,
        progress=SimpleNamespace(add=lambda **_: None),
    )
    assignment: Any = SimpleNamespace(context=lambda: context, problem_timeout_s=10.0)
    (table,) = [table async for table in Rescore(assignment)(rollout_table(list(rollouts)))]
    return rollouts_of(table)


async def test_every_scored_step_gets_an_audit_and_is_asked_for_once() -> None:
    scorer = Longest()
    (row,) = await rescored(scorer, ROLLOUT)
    assert sorted(scorer.asked) == [("a", "bb"), ("dddd",)]
    first, second = row.chains
    assert [c.audit for c in first.steps[0].candidates] == [0.1, 0.2, None]
    assert first.steps[0] == replace(second.steps[0], chosen=0)
    assert first.steps[1].candidates[0].audit == 0.4
    assert {c.reward for step in first.steps for c in step.candidates} == {0.5, None}
    assert row.tokens == 6


async def test_a_row_that_cannot_be_scored_says_so_and_the_others_are() -> None:
    bad = replace(ROLLOUT, chains=(chain(Step(candidates=(candidate("bad"),), chosen=0)),))
    failed, good = await rescored(Longest(), bad, ROLLOUT)
    assert failed.error == "RequestError: nonsense"
    assert good.error is None
    (untouched,) = await rescored(Longest(), replace(ROLLOUT, error="earlier"))
    assert untouched.error == "earlier"


@pytest.mark.parametrize("chains", [(), (chain(),)])
async def test_a_row_without_scored_steps_costs_nothing(chains: tuple[Chain, ...]) -> None:
    (row,) = await rescored(Longest(), replace(ROLLOUT, chains=chains))
    assert row.tokens == 0
