import io

import pytest
from rich.console import Console

from sphere_ray.tables.run import (
    print_comparison,
    print_evaluation,
    print_score_report,
    print_summary,
    print_trained_reward,
)

SCORE = {"pass@1": 0.2766, "ci95": [0.2, 0.35], "mean@k": None, "maj@k": None, "pass@k": None}
BETTER = {"pass@1": 0.3533, "ci95": [0.28, 0.43], "mean@k": 0.3, "maj@k": 0.41, "pass@k": 0.6}
HELD_OUT = {
    "steps": 300,
    "problems": 48,
    "auc": 0.84,
    "baseline_auc": 0.61,
    "ece": 0.05,
    "siblings": 0.77,
    "first_error": None,
    "spread": 0.2,
    "bins": [{"steps": 300, "score": 0.4, "value": 0.45}],
}
TRAINED = {
    "problems": 190,
    "labels": 1203,
    "steps": 48,
    "loss_first": 0.7,
    "loss_last": 0.4,
    "held_out": HELD_OUT,
    "refusal": None,
}


def estimate(value, low=None, high=None):
    return {"value": value, "ci95": None if low is None else [low, high], "n": 9}


PROCESS = {
    "solutions": 48,
    "judged": 40,
    "step_validity": estimate(0.81, 0.78, 0.84),
    "flawed_right": estimate(0.0525, 0.02, 0.08),
    "first_error": estimate(1.25),
    "recovery": estimate(0.125, 0.1, 0.15),
    "propagation": estimate(None),
    "by_depth": [],
}
CHANGE = {"step_validity": estimate(0.031, 0.01, 0.05), "first_error": estimate(-0.25, -0.5, 0)}
REWARD = {
    "source": "rollout_value",
    "steps": 1503,
    "distinct_candidates": 2.38,
    "audited": 0,
    "agreement": None,
    "process": PROCESS,
    "trained": TRAINED,
}
WRITER = {"iteration": 0, "policy": "0123456789ab", "policy_iteration": 0, "lag": 0, "pairs": 27}
SUMMARY = {
    "run": "laptop",
    "steps": [],
    "base": {"path": "m", "fingerprint": "f"},
    "audit": {
        "accepted": 4,
        "rejected": 2,
        "verdicts": 12,
        "comments": 0,
        "grader": {"n": 12, "agreed": 11, "share": 11 / 12, "ci95": [0.646, 0.985]},
        "scorer": {"n": 0, "agreed": 0, "share": None, "ci95": None},
        "ties": 0,
    },
    "iterations": [
        {
            "iteration": 0,
            "rollout": {
                "problems": 48,
                "chains": 131,
                "tokens": 52_400,
                "seconds": 100.0,
                "chains_per_second": 1.31,
                "pools": {
                    "policy-01234567": {
                        "replicas": 1,
                        "tokens_per_second": 555.0,
                        "prefilled_tokens": 1200,
                        "prefix_hits": 0.914,
                        "idle": 0.053,
                    }
                },
                "by_stage": {
                    "self_generation": {
                        "problems": 48,
                        "tokens": 45_000,
                        "chains": 96,
                        "correct": 40,
                    },
                    "self_correction": {"problems": 17, "tokens": 7400, "chains": 34, "correct": 5},
                },
                "routes": {"self_generation:pair": 21},
                "prm_inversions": 6,
                "wrong_to_correct": 5,
                "correct_to_wrong": 2,
            },
            "reward": REWARD,
            "pairs": {
                "total": 27,
                "by_stage": {"diversity": 9},
                "from_completions": 11,
                "tokens_per_pair": 1940.7,
                "per_1000_tokens": 0.52,
                "per_hour": {"diversity": 324.0},
                "dropped": {"too_long": 13},
                "audit": {"accepted": 4, "rejected": 2, "corrected": 1},
            },
            "writers": [WRITER, {**WRITER, "iteration": 1, "lag": 1, "pairs": 1027}],
            "training": {
                "pairs": 27,
                "steps": 4,
                "zero_stage": 2,
                "workers": 2,
                "tokens_per_second": 812.0,
                "padding": 0.021,
                "loss_first": 0.6931,
                "loss_last": 0.4321,
                "reward_accuracy": 0.875,
                "update_survival": 0.987,
                "seconds": 61.0,
            },
            "evaluation": {"n": 100, "failed": 0, "before": SCORE, "after": BETTER},
            "candidates": [
                {
                    "candidate": "trained",
                    "promoted": False,
                    "reason": "validation changed by -4.0 points",
                    "n": 200,
                    "looks": 2,
                    "fresh": 100,
                    "gain": -0.04,
                    "standard_error": 0.021,
                    "ci95": [-0.081, 0.001],
                    "seconds": 9.0,
                    "before": [],
                    "after": [],
                },
                {
                    "candidate": "half_rate",
                    "promoted": True,
                    "reason": "training collapsed",
                    "n": 0,
                    "looks": 0,
                    "fresh": 0,
                    "gain": None,
                    "standard_error": None,
                    "ci95": None,
                    "seconds": 9.0,
                    "before": [],
                    "after": [],
                },
            ],
            "promoted": True,
            "refusal": None,
        },
        {
            "iteration": 1,
            "rollout": {
                "problems": 0,
                "chains": 0,
                "tokens": 0,
                "seconds": 0.0,
                "chains_per_second": 0.0,
                "pools": {},
                "by_stage": {},
                "routes": {},
                "prm_inversions": 0,
                "wrong_to_correct": 0,
                "correct_to_wrong": 0,
            },
            "reward": {
                "source": "trained",
                "steps": 40,
                "distinct_candidates": None,
                "audited": 9,
                "agreement": 0.81,
                "process": {**PROCESS, "judged": 0},
                "trained": None,
            },
            "pairs": {
                "total": 0,
                "by_stage": {},
                "from_completions": 0,
                "tokens_per_pair": None,
                "per_1000_tokens": 0.0,
                "per_hour": {},
                "dropped": {},
                "audit": None,
            },
            "writers": [],
            "training": None,
            "evaluation": None,
            "candidates": [],
            "promoted": False,
            "refusal": "training collapsed",
        },
    ],
    "test": {
        "n": 300,
        "failed": 2,
        "base": {
            **SCORE,
            "macro_average": 0.315,
            "by_family": {"ages": {"n": 60, **SCORE}, "fares": {"n": 9, **BETTER}},
        },
        "final": {
            **BETTER,
            "macro_average": 0.325,
            "by_family": {"ages": {"n": 60, **BETTER}, "fares": {"n": 9, **SCORE}},
        },
        "difference": 0.0767,
        "difference_ci95": [0.021, 0.133],
        "p_value": 0.00213,
        "conclusion": "this run alone proves a gain",
        "process": {
            "base": PROCESS,
            "final": {**PROCESS, "step_validity": estimate(0.841, 0.81, 0.87)},
            "difference": {name: estimate(None) for name in PROCESS} | CHANGE,
        },
    },
    "benchmarks": {},
    "seconds_by_phase": {"rollouts": 90.0, "policy": 30.0},
}


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=240, color_system=None)


def lines(console):
    return console.file.getvalue().splitlines()


def line_with(console, *words):
    found = [line for line in lines(console) if all(word in line for word in words)]
    assert found, f"no line has {words}"
    return found[0]


def test_every_figure_of_a_run_is_shown(console):
    print_summary(SUMMARY, console)
    assert "48" in line_with(console, "problems", "self_correction 17")
    assert "131" in line_with(console, "chains", "2.380 distinct candidates a step")
    line_with(console, "tokens", "52,400", "524 tokens/s", "self_correction 7,400")
    line_with(console, "self_generation:pair 21")
    line_with(
        console, "5 wrong to correct (of 17 for 7,400 tokens)", "2 correct to wrong", "6 inversions"
    )
    line_with(
        console,
        "rollout_value",
        "1,503 steps",
        "1,203 labels",
        "AUC 0.840",
        "takes over",
    )
    line_with(console, "trained, 40 steps", "9 audited", "0.81")
    line_with(console, "27", "diversity 9", "11 of them from completions", "324 an hour")
    line_with(console, "0.52 per 1,000 tokens")
    line_with(console, "policy-01234567 555 tokens/s", "91.4% prefix hits", "idle 5.3%")
    line_with(console, "too_long 13")
    line_with(console, "written by", "27 of iteration 0 by policy 01234567 (iteration 0)")
    line_with(console, "1,027 of iteration 1", "(iteration 0, 1 iteration behind)")
    line_with(console, "4 steps", "0.6931", "0.4321", "87.5%", "ZeRO-2", "padding 2.1%")
    line_with(console, "27.7 (20.0 to 35.0)", "35.3 (28.0 to 43.0)", "100")
    line_with(
        console, "trained", "-4.0 (95%: -8.1 to +0.1) on 200", "100 fresh", "look 2", "-4.0 p"
    )
    line_with(console, "half_rate", "promoted: training collapsed")
    line_with(console, "decision", "promoted")
    line_with(console, "this run alone proves a gain")
    line_with(console, "ages", "60", "27.7", "35.3", "+7.7")
    line_with(console, "fares", "9", "-7.7")
    line_with(console, "mean of families", "31.5", "32.5", "+1.0")
    line_with(console, "all", "300", "+7.7")
    line_with(console, "paired", "+7.7", "+2.1 to +13.3", "p = 0.00213")
    line_with(console, "2 not answered")
    line_with(console, "of 40 Sol_max by their rewards: valid steps % 81.0 (78.0 to 84.0), right")
    line_with(console, "steps", "none scored")
    line_with(console, "answers with an equation", "40 of 48")
    line_with(
        console,
        "valid steps %",
        "81.0 (78.0 to 84.0)",
        "84.1 (81.0 to 87.0)",
        "+3.1 (+1.0 to +5.0)",
    )
    line_with(console, "first broken step", "1.25", "-0.25 (-0.50 to +0.00)")
    line_with(console, "broken steps after one %", " - ")
    line_with(console, "rollouts", "1:30", "75.0")


def test_what_people_decided_is_one_row(console):
    print_summary(SUMMARY, console)
    changed = "4 accepted pairs are kept, 2 rejected ones dropped, 1 verdicts corrected"
    row = line_with(console, "audit", changed)
    assert "grader agrees with 91.7% of 12 (64.6 to 98.5), scorer: nothing to compare" in row
    assert sum("accepted pairs" in line for line in lines(console)) == 1


def test_two_models(console):
    print_comparison(SUMMARY["test"], console)
    line_with(console, "paired", "+2.1 to +13.3")
    line_with(console, "fares", "9", "-7.7")


def test_an_iteration_without_training_says_so(console):
    print_summary(SUMMARY, console)
    line_with(console, "training", "none")
    line_with(console, "validation", "none")
    line_with(console, "decision", "the policy stays: training collapsed")


def test_one_model(console):
    print_evaluation(
        {"n": 60, "failed": 3, **BETTER, "by_family": {"ages": {"n": 60, **SCORE}}}, console
    )
    line_with(console, "ages", "60", "27.7", "20.0 to 35.0", "-")
    line_with(console, "all", "60", "35.3", "28.0 to 43.0", "30.0", "41.0", "60.0")
    line_with(console, "3 not answered")


def test_a_refused_reward_model_says_why(console):
    print_trained_reward({**TRAINED, "refusal": "AUC 0.512 < min_auc 0.7"}, console)
    line_with(console, "1,203 labels", "refused: AUC 0.512 < min_auc 0.7")
    print_trained_reward({**TRAINED, "held_out": None, "refusal": "only 3 problems"}, console)
    line_with(console, "refused: only 3 problems")


def test_reward_sources_side_by_side(console):
    cost = {"decoded_tokens": 91_204.4, "prefilled_tokens": 3210.0, "seconds": 9.0}
    sources = {
        "rollout_value": {"quality": HELD_OUT, "inversions": 0.0, "cost_per_1000": cost},
        "trained": {"quality": HELD_OUT, "inversions": 0.125, "cost_per_1000": None},
    }
    report = {
        "problems": 48,
        "completions": 8,
        "sources": sources,
        "agreement": {"rollout_value and trained": 0.7},
    }
    print_score_report(report, console)
    line_with(console, "48 problems", "8 completions")
    line_with(console, "rollout_value", "300", "0.840", "0.610", "91,204", "3,210")
    line_with(console, "trained", "300", "0.840", "0.125", "-")
    line_with(console, "rollout_value and trained 0.700")
