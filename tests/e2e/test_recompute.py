"""summary.py and the independent recount agree on data that covers every branch of both."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from recompute import check_run

from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    EvaluationRow,
    FinishReason,
    Message,
    PoolUse,
    PreferencePair,
    Problem,
    Rollout,
    StageName,
    Step,
    StopReason,
    Verdict,
)
from sphere_ray.reporting.reward_summary import reward_summary
from sphere_ray.reporting.summary import (
    evaluation_summary,
    held_out_summary,
    pairs_summary,
    rollout_summary,
    validation_summary,
)
from sphere_ray.schema import to_table

GENERATION, CORRECTION, DIVERSITY = StageName


def chain(stage, branch, *, correct):
    # Both branches share their only step; the diversity stage's was audited.
    audit = 0.25 if stage is DIVERSITY else None
    candidate = Candidate(
        text="2",
        token_ids=(5, 6),
        logprob=-0.1,
        stop_reason=StopReason.END,
        reward=0.5,
        audit=audit,
    )
    return Chain(
        chain_id=f"{stage}-{branch}",
        stage=stage,
        branch=branch,
        model="m",
        steps=(Step(candidates=(candidate,), chosen=0),),
        answer="2",
        verdict=Verdict.CORRECT if correct else Verdict.WRONG,
        finish_reason=FinishReason.ANSWER,
        num_tokens=2,
        seed=1,
    )


def both(stage, best, worst):
    return chain(stage, Branch.MAX, correct=best), chain(stage, Branch.MIN, correct=worst)


def pair(pair_id, stage):
    return PreferencePair(
        pair_id=pair_id,
        problem_id="p",
        stage=stage,
        prompt=(Message(role="user", content="1+1?"),),
        chosen="2",
        rejected="3",
    )


def rollout(problem_id, route, chains=(), pairs=(), dropped=(), error=None):
    return Rollout(
        problem=Problem(problem_id=problem_id, question="1+1?", answer="2", source="test"),
        chains=chains,
        route=route,
        pairs=pairs,
        dropped=dropped,
        tokens=7 * len(chains),
        error=error,
    )


ROLLOUTS = [
    rollout(
        "a", ("self_generation:pair",), both(GENERATION, True, False), (pair("1", GENERATION),)
    ),
    rollout(
        "b",
        ("self_generation:both_wrong", "self_correction:pair"),
        (*both(GENERATION, False, False), *both(CORRECTION, True, False)),
        (pair("2", CORRECTION),),
        ("too_long", "too_similar"),
    ),
    rollout(
        "c",
        ("self_generation:both_wrong", "self_correction:both_right", "diversity:pair"),
        (
            *both(GENERATION, False, False),
            *both(CORRECTION, True, True),
            *both(DIVERSITY, True, False),
        ),
        (pair("3", DIVERSITY),),
    ),
    rollout(
        "d",
        ("self_generation:both_wrong", "self_correction:inversion"),
        (*both(GENERATION, False, False), *both(CORRECTION, False, True)),
    ),
    rollout("e", ("self_generation:inversion",), both(GENERATION, False, True)),
    rollout(
        "f",
        ("self_generation:both_right", "correction_check:lost", "diversity:pair"),
        (
            *both(GENERATION, True, True),
            *both(CORRECTION, False, True),
            *both(DIVERSITY, False, False),
        ),
        (pair("3", DIVERSITY), pair("4", DIVERSITY)),
    ),
    rollout("g", ("self_generation:both_wrong", "self_correction:no_attempt")),
    rollout("h", (), error="the problem ran out of time"),
]
PAIRS = [pair("1", GENERATION), pair("2", CORRECTION), pair("3", DIVERSITY)]
DROPPED = {"too_long": 1, "too_similar": 1, "duplicate": 1, "off_policy_cap": 1}


def evaluated(problem_id, family, *, correct, samples=()):
    return EvaluationRow(
        problem_id=problem_id,
        family=family,
        level=1,
        response="2",
        answer="2",
        verdict=Verdict.CORRECT if correct else Verdict.TRUNCATED,
        num_tokens=1,
        finish_reason=FinishReason.ANSWER,
        sample_verdicts=tuple(Verdict.CORRECT if s else Verdict.NO_ANSWER for s in samples),
        sample_answers=tuple("2" if s else None for s in samples),
    )


BEFORE = [
    evaluated(str(i), family, correct=i % 3 == 0, samples=(True, i % 2 == 0))
    for i, family in enumerate(["ages", "ages", "trains", "trains", "trains", None])
]
AFTER = [replace(row, verdict=Verdict.CORRECT) for row in BEFORE]
POOL = PoolUse(
    name="policy",
    replicas=2,
    seconds=2.5,
    busy_s=4.0,
    generated_tokens=100,
    prefix_queries=200,
    prefix_hits=150,
)


def write(folder: Path, records, cls):
    folder.mkdir(parents=True)
    half = len(records) // 2
    for name, part in (("a", records[:half]), ("b", records[half:])):
        pq.write_table(to_table(part, cls), folder / f"{name}.parquet")


@pytest.fixture
def run_dir(tmp_path):
    write(tmp_path / "iter-000" / "rollouts", ROLLOUTS, Rollout)
    write(tmp_path / "iter-000" / "pairs", PAIRS, PreferencePair)
    write(tmp_path / "iter-000" / "evaluation", AFTER, EvaluationRow)
    write(tmp_path / "evaluation" / "base", BEFORE, EvaluationRow)
    write(tmp_path / "test" / "base", BEFORE, EvaluationRow)
    write(tmp_path / "test" / "iter-000", AFTER[::-1], EvaluationRow)
    report = {"report": {"phase": "test/iter-000", "seconds": 3.5}}
    (tmp_path / "test" / "iter-000" / "manifest.json").write_text(json.dumps(report))
    report = {"report": {"phase": "rollouts", "seconds": 3.0, "pools": [asdict(POOL)]}}
    (tmp_path / "iter-000" / "rollouts" / "manifest.json").write_text(json.dumps(report))
    summary = {
        "iterations": [
            {
                "iteration": 0,
                "rollout": rollout_summary(iter(ROLLOUTS), 3.0, [POOL]),
                "reward": reward_summary(iter(ROLLOUTS), "rollout_value"),
                "pairs": pairs_summary(iter(PAIRS), DROPPED, 3.0),
                "training": None,
                "evaluation": validation_summary(BEFORE, AFTER[::-1], seed=0, resamples=200),
                "promoted": True,
                "refusal": None,
            }
        ],
        "seconds_by_phase": {"test": 3.5, "rollouts": 3.0},
        "test": held_out_summary(BEFORE, AFTER[::-1], seed=0, resamples=200),
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_the_recount_agrees_with_the_summary(run_dir):
    check_run(run_dir)


@pytest.mark.parametrize(
    "wrong",
    [
        ("rollout", "chains"),
        ("rollout", "chains_per_second"),
        ("rollout", "tokens"),
        ("rollout", "wrong_to_correct"),
        ("rollout", "correct_to_wrong"),
        ("rollout", "prm_inversions"),
        ("reward", "steps"),
        ("reward", "audited"),
        ("pairs", "total"),
        ("evaluation", "n"),
    ],
)
def test_the_recount_notices_a_wrong_count(run_dir, wrong):
    path = run_dir / "summary.json"
    summary = json.loads(path.read_text())
    part, field = wrong
    summary["iterations"][0][part][field] += 1
    path.write_text(json.dumps(summary))
    with pytest.raises(AssertionError):
        check_run(run_dir)


def test_counts_of_the_example_by_hand():
    summary = rollout_summary(ROLLOUTS, 3.0)
    assert summary["problems"] == 8
    assert summary["chains"] == 24
    assert summary["tokens"] == 168
    assert summary["by_stage"] == {
        "self_generation": {"problems": 7, "chains": 12, "correct": 4},
        "self_correction": {"problems": 4, "chains": 6, "correct": 4},
        "diversity": {"problems": 2, "chains": 4, "correct": 1},
        "correction_check": {"problems": 1, "chains": 2, "correct": 1},
    }
    assert summary["routes"]["failed"] == 1
    assert summary["prm_inversions"] == 2
    assert summary["wrong_to_correct"] == 2
    assert summary["correct_to_wrong"] == 1


def test_pools_and_pairs_by_hand():
    summary = rollout_summary(ROLLOUTS, 3.0, [POOL])
    assert summary["chains_per_second"] == 8
    assert summary["pools"]["policy"] == {
        "replicas": 2,
        "tokens_per_second": 40.0,
        "prefilled_tokens": 50,
        "prefix_hits": 0.75,
        "idle": 0.2,
    }
    hourly = pairs_summary(PAIRS, DROPPED, 1800.0)
    assert hourly["per_hour"] == {stage: 2 * n for stage, n in hourly["by_stage"].items()}


def test_rewards_by_hand():
    summary = reward_summary(ROLLOUTS, "trained")
    # The same siblings count once a problem: six problems, and two more where they were audited.
    assert (summary["steps"], summary["audited"]) == (8, 2)
    assert summary["agreement"] is None  # all rewards are equal


def test_scores_by_hand():
    score = evaluation_summary(BEFORE, seed=0, resamples=200)
    assert score["n"] == 6
    assert score["pass@1"] == pytest.approx(2 / 6)
    assert score["mean@k"] == pytest.approx(0.75)
    assert {name: part["n"] for name, part in score["by_family"].items()} == {
        "ages": 2,
        "trains": 3,
    }
    assert score["by_family"]["ages"]["pass@1"] == pytest.approx(0.5)
    assert score["macro_average"] == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_votes_and_tries_by_hand():
    rows = [
        evaluated("0", None, correct=True, samples=(True, True, False)),
        evaluated("1", None, correct=True, samples=(False, False, True)),
        evaluated("2", None, correct=True, samples=(False, False, False)),
    ]
    score = evaluation_summary(rows, seed=0, resamples=200)
    assert score["pass@k"] == pytest.approx(2 / 3)
    assert score["maj@k"] == pytest.approx(2 / 3)  # samples without an answer have no vote
    assert score["macro_average"] is None


def test_models_are_compared_on_the_same_problems_only():
    with pytest.raises(ValueError, match="different problems"):
        held_out_summary(BEFORE, AFTER[1:], seed=0, resamples=200)
