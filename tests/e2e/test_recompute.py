"""summary.py and the independent recount agree on data that covers every branch of both."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from recompute import check_run

from sphere_ray.config.evaluation import PromotionSettings
from sphere_ray.method.decision import Ruling, decide
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    Completion,
    Dropped,
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
from sphere_ray.reporting.rollout_summary import corrections, pairs_summary, rollout_summary
from sphere_ray.reporting.summary import (
    evaluation_summary,
    held_out_summary,
    validation_summary,
)
from sphere_ray.schema import to_table

GENERATION = StageName.SELF_GENERATION
CORRECTION = StageName.SELF_CORRECTION
DIVERSITY = StageName.DIVERSITY


def candidate(text, *, audit=None, completions=None):
    return Candidate(
        text=text,
        token_ids=(5, int(text)),
        logprob=-0.1,
        stop_reason=StopReason.END,
        reward=0.5,
        audit=audit,
        completions=completions,
    )


def chain(stage, branch, *, correct):
    # Both branches share their only position; the diversity stage's was audited.
    audit = 0.25 if stage is DIVERSITY else None
    wrong = Completion(
        text=" or 4",
        token_ids=(7,),
        logprob=-0.2,
        stop_reason=StopReason.END,
        verdict=Verdict.WRONG,
    )
    siblings = (candidate("2", audit=audit), candidate("3", audit=audit, completions=(wrong,)))
    return Chain(
        chain_id=f"{stage}-{branch}",  # the same in every row: a pair names chains of its problem
        stage=stage,
        branch=branch,
        model="m",
        steps=(Step(candidates=siblings, chosen=0 if correct else 1),),
        answer="2" if correct else "3",
        verdict=Verdict.CORRECT if correct else Verdict.WRONG,
        finish_reason=FinishReason.ANSWER,
        num_tokens=2,
        seed=1,
    )


def both(stage, best, worst):
    return chain(stage, Branch.MAX, correct=best), chain(stage, Branch.MIN, correct=worst)


def pair(problem_id, stage, rejected="3", place=""):
    return PreferencePair(
        pair_id=f"{problem_id}{place}",
        problem_id=problem_id,
        stage=stage,
        prompt=(Message(role="user", content="1+1?"),),
        chosen="2",
        rejected=rejected,
        chosen_chain=f"{stage}-max",
        rejected_chain=f"{stage}-min{place}",
    )


def refused(reason):
    return Dropped(
        pair_id="x",
        problem_id="p",
        stage=GENERATION,
        chosen_chain=f"{GENERATION}-max",
        rejected_chain=f"{GENERATION}-min",
        reason=reason,
    )


def rollout(problem_id, route, chains=(), error=None):
    return Rollout(
        problem=Problem(problem_id=problem_id, question="1+1?", answer="2", source="test"),
        chains=chains,
        route=route,
        tokens=sum(range(len(route))) + 7 * len(route),
        stage_tokens=tuple(range(7, 7 + len(route))),
        error=error,
    )


ROLLOUTS = [
    rollout("a", ("self_generation:pair",), both(GENERATION, True, False)),
    rollout(
        "b",
        ("self_generation:both_wrong", "self_correction:pair"),
        (*both(GENERATION, False, False), *both(CORRECTION, True, False)),
    ),
    rollout(
        "c",
        ("self_generation:both_wrong", "self_correction:both_right", "diversity:pair"),
        (
            *both(GENERATION, False, False),
            *both(CORRECTION, True, True),
            *both(DIVERSITY, True, False),
        ),
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
    ),
    rollout("g", ("self_generation:both_wrong", "self_correction:no_attempt")),
    rollout("h", (), error="the problem ran out of time"),
]
PAIRS = [
    pair("a", GENERATION),
    pair("b", CORRECTION),
    pair("c", DIVERSITY),
    pair("a", GENERATION, "3 or 4", "/0.1.0"),
]
DROPPED = {"too_long": 1, "too_similar": 1, "off_policy_cap": 1}


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
FAILED = EvaluationRow(problem_id="9", family="ages", level=1, error="RequestError: too long")
BEFORE.append(evaluated("9", "ages", correct=True))
AFTER.append(FAILED)
TABLES = [to_table(ROLLOUTS[:3], Rollout), to_table(ROLLOUTS[3:], Rollout)]
TOKENS = sum(each.tokens for each in ROLLOUTS)
PAIR_TABLES = [to_table(PAIRS, PreferencePair)]
POOL = PoolUse(
    name="policy",
    replicas=2,
    seconds=2.5,
    busy_s=4.0,
    generated_tokens=100,
    prefix_queries=200,
    prefix_hits=150,
)


def entry(decision):
    return {
        "candidate": "trained",
        "promoted": decision.ruling is Ruling.PROMOTE,
        "reason": decision.reason,
        "n": decision.n,
        "looks": 2,
        "fresh": 7,
        "gain": decision.gain,
        "standard_error": decision.error,
        "ci95": list(decision.interval),
        "seconds": 1.0,
        "before": ["evaluation/base"],
        "after": ["iter-000/evaluation/trained", "iter-000/evaluation/trained-2"],
    }


def write(folder: Path, records, cls):
    folder.mkdir(parents=True)
    half = len(records) // 2
    for name, part in (("a", records[:half]), ("b", records[half:])):
        pq.write_table(to_table(part, cls), folder / f"{name}.parquet")


@pytest.fixture
def run_dir(tmp_path):
    write(tmp_path / "iter-000" / "rollouts", ROLLOUTS, Rollout)
    write(tmp_path / "iter-000" / "pairs", PAIRS, PreferencePair)
    write(tmp_path / "iter-000" / "evaluation" / "trained", AFTER[:3], EvaluationRow)
    write(tmp_path / "iter-000" / "evaluation" / "trained-2", AFTER[3:], EvaluationRow)
    write(tmp_path / "evaluation" / "base", BEFORE, EvaluationRow)
    write(tmp_path / "test" / "base", BEFORE, EvaluationRow)
    write(tmp_path / "test" / "iter-000", AFTER[::-1], EvaluationRow)
    report = {"report": {"phase": "test/iter-000", "seconds": 3.5}}
    (tmp_path / "test" / "iter-000" / "manifest.json").write_text(json.dumps(report))
    report = {"report": {"phase": "rollouts", "seconds": 3.0, "pools": [asdict(POOL)]}}
    (tmp_path / "iter-000" / "rollouts" / "manifest.json").write_text(json.dumps(report))
    reasons = [reason for reason, count in DROPPED.items() for _ in range(count)]
    write(tmp_path / "iter-000" / "pairs" / "dropped", list(map(refused, reasons)), Dropped)
    report = {"report": {"phase": "pairs", "seconds": 0.0, "dropped": DROPPED}}
    (tmp_path / "iter-000" / "pairs" / "manifest.json").write_text(json.dumps(report))
    summary = {
        "iterations": [
            {
                "iteration": 0,
                "rollout": rollout_summary(iter(TABLES), 3.0, [POOL]),
                "reward": reward_summary(iter(TABLES), "rollout_value"),
                "pairs": (paired := pairs_summary(iter(PAIR_TABLES), DROPPED, 3.0, TOKENS)),
                "writers": [{"iteration": 0, "pairs": paired["total"]}],
                "training": None,
                "evaluation": validation_summary(BEFORE, AFTER[::-1], seed=0, resamples=200),
                "candidates": [entry(decide(BEFORE, AFTER, PromotionSettings(max_loss=1)))],
                "promoted": True,
                "refusal": None,
            }
        ],
        "benchmarks": {},
        "seconds_by_phase": {"test": 3.5, "rollouts": 3.0, "pairs": 0.0},
        "steps": ["test/iter-000", "iter-000/rollouts", "iter-000/pairs"],
        "test": held_out_summary(BEFORE, AFTER[::-1], seed=0, boundary="\n", resamples=200),
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
        ("reward", "distinct_candidates"),
        ("pairs", "total"),
        ("pairs", "from_completions"),
        ("pairs", "tokens_per_pair"),
        ("pairs", "per_1000_tokens"),
        ("evaluation", "n"),
        ("evaluation", "failed"),
        ("candidates", "n"),
        ("candidates", "gain"),
        ("candidates", "standard_error"),
    ],
)
def test_the_recount_notices_a_wrong_count(run_dir, wrong):
    path = run_dir / "summary.json"
    summary = json.loads(path.read_text())
    part, field = wrong
    found = summary["iterations"][0][part]
    (found[0] if part == "candidates" else found)[field] += 1
    path.write_text(json.dumps(summary))
    with pytest.raises(AssertionError):
        check_run(run_dir)


def test_counts_of_the_example_by_hand():
    summary = rollout_summary(TABLES, 3.0)
    assert summary["problems"] == 8
    assert summary["chains"] == 24
    assert summary["tokens"] == 7 * 7 + 5 * 8 + 2 * 9  # first, second and third stage of a route
    assert summary["by_stage"] == {
        "self_generation": {"problems": 7, "tokens": 49, "chains": 12, "correct": 4},
        "self_correction": {"problems": 4, "tokens": 32, "chains": 6, "correct": 4},
        "diversity": {"problems": 2, "tokens": 18, "chains": 4, "correct": 1},
        "correction_check": {"problems": 1, "tokens": 8, "chains": 2, "correct": 1},
    }
    assert summary["routes"]["failed"] == 1
    assert summary["prm_inversions"] == 2
    assert summary["wrong_to_correct"] == 2
    assert summary["correct_to_wrong"] == 1


def test_corrections_by_hand(run_dir):
    assert corrections(str(run_dir / "iter-000" / "rollouts")) == (4, 2)


def test_pools_and_pairs_by_hand():
    summary = rollout_summary(TABLES, 3.0, [POOL])
    assert summary["chains_per_second"] == 8
    assert summary["pools"]["policy"] == {
        "replicas": 2,
        "tokens_per_second": 40.0,
        "prefilled_tokens": 50,
        "prefix_hits": 0.75,
        "idle": 0.2,
    }
    hourly = pairs_summary(PAIR_TABLES, DROPPED, 1800.0, 2000)
    assert (hourly["total"], hourly["from_completions"]) == (4, 1)
    assert (hourly["tokens_per_pair"], hourly["per_1000_tokens"]) == (500.0, 2.0)
    assert hourly["per_hour"] == {stage: 2 * n for stage, n in hourly["by_stage"].items()}


def test_rewards_by_hand():
    summary = reward_summary(TABLES, "trained")
    # The two chains of a stage share their only position, so each stage of a problem scored two.
    assert (summary["steps"], summary["audited"]) == (24, 4)
    assert summary["distinct_candidates"] == 2
    assert summary["agreement"] is None  # all rewards are equal


def test_scores_by_hand():
    score = evaluation_summary([*BEFORE[:6], FAILED], seed=0, resamples=200)
    assert (score["n"], score["failed"]) == (6, 1)
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
        held_out_summary(BEFORE, AFTER[1:], seed=0, boundary="\n", resamples=200)


def test_a_problem_that_one_model_could_not_answer_counts_for_neither():
    rows = [evaluated("0", None, correct=True), evaluated("1", None, correct=True)]
    lost = [replace(FAILED, problem_id="0"), evaluated("1", None, correct=False)]
    summary = held_out_summary(rows, lost, seed=0, boundary="\n", resamples=200)
    assert (summary["n"], summary["failed"]) == (1, 1)
    assert (summary["base"]["pass@1"], summary["final"]["pass@1"]) == (1.0, 0.0)
    with pytest.raises(ValueError, match="no problem was answered"):
        validation_summary(rows[:1], lost[:1], seed=0, resamples=200)
