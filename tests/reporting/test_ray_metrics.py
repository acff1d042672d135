"""The numbers of the board as Prometheus finds them; Ray's classes are replaced by fakes."""

from typing import Any, ClassVar

import pytest

from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    EvaluationRow,
    FinishReason,
    StageName,
    Step,
    StopReason,
    Verdict,
)
from sphere_ray.reporting.progress import PhaseState, Snapshot
from sphere_ray.reporting.ray_metrics import COUNTERS, GAUGES, POOL_GAUGES, RunMetrics, series
from sphere_ray.reward.tallies import tally_answers, tally_chains

HERE = ("r1", "2", "rollouts")


class FakeMetric:
    """Keeps what Ray would export: counters by adding, gauges by replacing."""

    exported: ClassVar[dict[tuple[Any, ...], float]] = {}

    def __init__(self, name: str, description: str, *rest: Any) -> None:
        self.name = name
        self.tag_keys = rest[-1]
        assert description

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        self.exported[self._key(tags)] = self.exported.get(self._key(tags), 0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.exported[self._key(tags)] = value

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert set(tags) == set(self.tag_keys)
        return (self.name, *(tags[tag] for tag in self.tag_keys))


@pytest.fixture
def exported() -> dict[tuple[Any, ...], float]:
    FakeMetric.exported = {}
    return FakeMetric.exported


def metrics() -> RunMetrics:
    fake: Any = FakeMetric
    return RunMetrics("r1", counter=fake, gauge=fake)


def snapshot(**fields: Any) -> Snapshot:
    known = {"name": "rollouts", "unit": "problems", "total": 9, "iteration": 2, "first": 4}
    return Snapshot(**{**known, **fields})


def test_totals_become_increments_and_a_phase_ends(exported: dict[Any, float]) -> None:
    listener = metrics()
    begun = {"done": 5, "counts": {"tokens": 70, "pairs": 0}, "state": PhaseState.RUNNING}
    listener.on_progress(snapshot(**begun, seconds=2.0))
    assert exported["sphere_phase", *HERE] == 1
    last = {"done": 9, "counts": {"tokens": 100, "pairs": 3}, "state": PhaseState.FINISHED}
    listener.on_progress(snapshot(**last, seconds=4.0))
    assert exported == {
        ("sphere_problems_total", *HERE): 5,
        ("sphere_tokens_total", *HERE): 100,
        ("sphere_pairs_total", *HERE): 3,
        ("sphere_phase", *HERE): 0,
        ("sphere_phase_done", *HERE): 9,
        ("sphere_phase_total", *HERE): 9,
        ("sphere_tokens_per_second", *HERE): 25,
    }


def test_details_carry_tags_of_their_own(exported: dict[Any, float]) -> None:
    listener = metrics()
    details = {
        "verdicts/diversity/wrong": 2,
        "pairs_kept/diversity": 1,
        "pairs_dropped/too_alike": 4,
        "reward/0": 2,
        "reward/9": 1,
        "pool/policy-1a2b/idle": 0.25,
        "pool/policy-1a2b/running": 7.0,
    }
    listener.on_progress(snapshot(details=details))
    listener.on_progress(
        snapshot(details={**details, "verdicts/diversity/wrong": 3, "reward/9": 3})
    )
    found = {key: value for key, value in exported.items() if "phase" not in key[0]}
    assert found == {
        ("sphere_verdicts_total", *HERE, "diversity", "wrong"): 3,
        ("sphere_pairs_kept_total", *HERE, "diversity"): 1,
        ("sphere_pairs_dropped_total", *HERE, "too_alike"): 4,
        **{("sphere_reward_bucket_total", *HERE, f"0.{tenth}"): 2 for tenth in range(1, 10)},
        ("sphere_reward_bucket_total", *HERE, "1.0"): 5,
        ("sphere_reward_bucket_total", *HERE, "+Inf"): 5,
        ("sphere_pool_idle", *HERE, "policy-1a2b"): 0.25,
        ("sphere_pool_running", *HERE, "policy-1a2b"): 7.0,
    }


def test_training_and_evaluation(exported: dict[Any, float]) -> None:
    listener = metrics()
    step = {"step/grad_norm": 2.0, "step/chosen_shift": -0.1, "step/tokens": 40}
    training = {"name": "policy", "unit": "steps", "done": 5, "counts": {"loss": 0.7}}
    listener.on_progress(snapshot(**training, details=step))
    answers = {"answers/correct": 3, "answers/wrong": 1}
    listener.on_progress(Snapshot(name="test/base", unit="problems", total=2, details=answers))
    policy, test = ("r1", "2", "policy"), ("r1", "", "test/base")
    assert exported["sphere_loss", *policy] == 0.7
    assert exported["sphere_grad_norm", *policy] == 2.0
    assert exported["sphere_chosen_shift", *policy] == -0.1
    assert exported["sphere_evaluation_accuracy", *test] == 0.75
    assert exported["sphere_answers_total", *test, "correct"] == 3


def test_prometheus_names_are_those_of_the_tables() -> None:
    names = series()
    assert len(names) == len(COUNTERS) + len(GAUGES) + len(POOL_GAUGES)
    assert {"ray_sphere_tokens_total", "ray_sphere_pool_idle"} <= names


def candidate(reward: float | None) -> Candidate:
    return Candidate(text="", token_ids=(), logprob=0.0, stop_reason=StopReason.END, reward=reward)


def test_shared_siblings_count_once_and_a_reward_of_one_is_in_the_last_bucket() -> None:
    shared, own = (candidate(0.0), candidate(1.0)), (candidate(0.35), candidate(None))
    chains = [
        Chain(
            chain_id=branch,
            stage=StageName.SELF_GENERATION,
            branch=branch,
            model="m",
            steps=(Step(candidates=shared, chosen=chosen), *more),
            answer=None,
            verdict=verdict,
            finish_reason=FinishReason.ANSWER,
            num_tokens=1,
            seed=0,
        )
        for branch, chosen, more, verdict in (
            (Branch.MAX, 1, (), Verdict.CORRECT),
            (Branch.MIN, 0, (Step(candidates=own, chosen=0),), Verdict.NO_ANSWER),
        )
    ]
    assert tally_chains(chains) == {
        "verdicts/self_generation/correct": 1,
        "verdicts/self_generation/no_answer": 1,
        "reward/0": 1,
        "reward/9": 1,
        "reward/3": 1,
    }


def test_answers_are_counted_by_verdict_and_failed_rows_not_at_all() -> None:
    samples = (Verdict.CORRECT, Verdict.WRONG)
    row = EvaluationRow(
        problem_id="p", family=None, level=None, verdict=Verdict.CORRECT, sample_verdicts=samples
    )
    assert tally_answers(row) == {"answers/correct": 2, "answers/wrong": 1}
    failed = EvaluationRow(problem_id="p", family=None, level=None, error="too long")
    assert tally_answers(failed) == {}
