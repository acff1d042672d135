"""Pairs of some stages alone (`pairs.stages`)."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sphere_ray.config.method import MethodSettings
from sphere_ray.method.pairs import build_pairs
from sphere_ray.method.sphere import sphere
from sphere_ray.records import StageName

from .fakes import PROBLEM, wander, world

LOOSE = {
    "max_per_problem": 50,
    "min_edit_distance": 0,
    "max_logprob_gap": None,
    "sound_chosen": False,
}
some_stages = st.lists(st.sampled_from(StageName), min_size=1, unique=True)


def method(**pairs: object) -> MethodSettings:
    return MethodSettings.model_validate({"pairs": LOOSE | pairs})


def made(number: int, rules: MethodSettings) -> list[tuple[StageName, str]]:
    problem = replace(PROBLEM, problem_id=str(number))
    rollout = asyncio.run(sphere(problem, world(wander, settings=method())))
    found = build_pairs(rollout, rules)
    return [(each.stage, each.pair_id) for each in (*found.pairs, *found.dropped)]


@given(st.integers(0, 200), some_stages, st.sampled_from(("chain", "step", "both")))
@settings(max_examples=100)
def test_only_the_named_stages_give_pairs(number, stages, level):
    assert {stage for stage, _ in made(number, method(stages=stages, level=level))} <= {*stages}


@pytest.mark.parametrize("level", ["chain", "step", "both"])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_the_first_stages_give_what_they_give_with_the_others(last, level):
    first = tuple(StageName)[:last]
    found = set()
    for number in range(60):
        whole = made(number, method(level=level))
        found |= {stage for stage, _ in whole}
        kept = [pair for pair in whole if pair[0] in first]
        assert made(number, method(level=level, stages=first)) == kept
    assert len(found) >= 2  # else nothing was left out


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"stages": {"diversity": False}, "pairs": {"stages": ["diversity"]}}, "diversity"),
        (
            {"search": {"strategy": "sampled"}, "pairs": {"stages": ["self_correction"]}},
            "self_correction",
        ),
        ({"pairs": {"stages": []}}, "stages"),
        ({"pairs": {"stages": ["correction_check"]}}, "stages"),
    ],
)
def test_pairs_of_a_stage_that_never_runs_are_refused(document, named):
    with pytest.raises(ValidationError, match=named):
        MethodSettings.model_validate(document)
