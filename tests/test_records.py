from dataclasses import fields, is_dataclass

import pytest

from sphere_ray import records
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    FinishReason,
    StageName,
    Step,
    StopReason,
    Verdict,
)

RECORDS = [value for value in vars(records).values() if is_dataclass(value)]


def step(*candidates, chosen=0):
    made = tuple(
        Candidate(
            text=text,
            token_ids=tuple(map(ord, text)),
            logprob=-0.5,
            stop_reason=StopReason.BOUNDARY,
            reward=reward,
        )
        for text, reward in candidates
    )
    return Step(candidates=made, chosen=chosen)


def chain(*steps, verdict=Verdict.WRONG):
    return Chain(
        chain_id="c",
        stage=StageName.SELF_GENERATION,
        branch=Branch.MAX,
        model="m",
        steps=steps,
        answer=None,
        verdict=verdict,
        finish_reason=FinishReason.ANSWER,
        num_tokens=0,
        seed=0,
    )


def test_a_chain_is_made_of_the_chosen_candidates():
    made = chain(step(("x", 0.1), ("a\n\n", 0.9), chosen=1), step(("b", 0.4), ("y", 0.0)))
    assert made.text == "a\n\nb"
    assert made.token_ids == tuple(map(ord, "a\n\nb"))


def test_a_chain_is_worth_its_weakest_scored_step():
    assert chain(step(("a", 0.9)), step(("b", 0.4)), step(("c", None))).reward == 0.4
    assert chain(step(("a", None))).reward is None
    assert chain().reward is None


@pytest.mark.parametrize("verdict", Verdict)
def test_only_the_verdict_correct_is_correct(verdict):
    assert chain(verdict=verdict).correct is (verdict.value == "correct")


@pytest.mark.parametrize("cls", RECORDS)
def test_records_are_frozen_slotted_and_keyword_only(cls):
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)
    assert all(field.kw_only for field in fields(cls))
