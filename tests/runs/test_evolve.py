"""Promotion and refusal over several iterations, with phases that return what a test scripts."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sphere_ray.config import RunSettings
from sphere_ray.errors import ModelError, RunDirectoryError, TooFewPairsError
from sphere_ray.records import (
    EvaluationRow,
    FinishReason,
    Message,
    ModelRef,
    PhaseReport,
    PreferencePair,
    StageName,
    Verdict,
)
from sphere_ray.reporting.summary import PAIR_COLUMNS
from sphere_ray.runs import evolve
from sphere_ray.runs.learning import Trained
from sphere_ray.runs.trained_reward import TrainedReward
from sphere_ray.schema import to_table

BASE = ModelRef(path="base", iteration=0, fingerprint="base")
RESULT = {
    "pairs": 4,
    "steps": 2,
    "loss_first": 0.7,
    "loss_last": 0.5,
    "reward_accuracy": 1.0,
    "history": [{"tokens": 100, "computed": 80, "padding": 8, "seconds": 2.0}],
}
SOURCES = {split: {"source": f"file:{split}"} for split in ("train", "validation", "test")}
N = 10


def answers(right: int, truncated: int = 0) -> list[EvaluationRow]:
    verdicts = [Verdict.CORRECT] * right + [Verdict.TRUNCATED] * truncated
    verdicts += [Verdict.WRONG] * (N - len(verdicts))
    return [
        EvaluationRow(
            problem_id=str(index),
            family="ages",
            level=1,
            response="",
            answer=None,
            verdict=verdict,
            num_tokens=1,
            finish_reason=FinishReason.ANSWER,
        )
        for index, verdict in enumerate(verdicts)
    ]


def pair(index: int) -> PreferencePair:
    return PreferencePair(
        pair_id=str(index),
        problem_id=str(index),
        stage=StageName.SELF_GENERATION,
        prompt=(Message(role="user", content="1+1?"),),
        chosen="2",
        rejected="3",
    )


@dataclass
class Script:
    """What comes of each iteration, and what the loop asked for."""

    after: list[list[EvaluationRow]]
    pairs: int = 4
    collapses: tuple[int, ...] = ()
    unfit: tuple[int, ...] = ()
    rates: list[float] = field(default_factory=list)
    policies: list[str] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    handover_refusals: list[str | None] = field(default_factory=list)
    scored_by: list[str | None] = field(default_factory=list)
    learned_from: list[list[bool]] = field(default_factory=list)
    beside: list[bool] = field(default_factory=list)


def manifest(phase: str) -> Any:
    report = PhaseReport(phase=phase, fingerprint="f", rows_in=1, rows_out=1, seconds=1.0)
    return SimpleNamespace(report=report)


def run(monkeypatch: pytest.MonkeyPatch, script: Script, **changes: Any) -> Any:
    training = {"learning_rate": 1.0, "batch_size": 1} | changes.pop("training", {})
    settings = RunSettings.model_validate(
        {
            "name": "t",
            "run_dir": "unused",
            "problems": SOURCES,
            "engines": {"policy": {"path": "m"}, "policy_pool": {"kv_cache_gib": 1}}
            | changes.pop("engines", {}),
            "training": training,
            "iterations": 3,
        }
        | changes
    )
    phase = SimpleNamespace(path="", fingerprint="")

    def roll_out(
        session: Any, problems: Any, policy: ModelRef, iteration: int, trained: Any, *, beside: Any
    ) -> Any:
        script.beside.append(beside is not None)
        script.policies.append(policy.path)
        script.scored_by.append(trained and trained.path)
        return phase, manifest("rollouts")

    def train_reward(
        session: Any, trained: Any, recorded: Any, base: ModelRef, iteration: int
    ) -> TrainedReward:
        script.learned_from.append([each.trained for each in recorded])
        model = replace(BASE, path=f"prm{iteration}")
        summary: Any = {"refusal": script.handover_refusals[iteration]}
        return TrainedReward(model=model, summary=summary, manifest=manifest("reward"))

    def learn(
        session: Any, pairs: Any, models: Any, iteration: int, rate: float, ahead: Any
    ) -> Trained:
        script.anchors.append(models[0].path)
        if iteration in script.unfit:
            raise TooFewPairsError("only 0 pairs can be trained on")
        script.rates.append(rate)
        manifests = (manifest("reference"), manifest("policy"))
        if iteration in script.collapses:
            return Trained(model=None, result={"error": "it fell"}, manifests=manifests)
        model = replace(BASE, path=f"m{iteration}", iteration=iteration + 1)
        return Trained(model=model, result=RESULT, manifests=manifests)

    def evaluate(session: Any, problems: Any, split: str, model: ModelRef, place: Any) -> Any:
        rows = script.after[place[0]] if place[0] is not None else answers(5)
        return rows, manifest(place[1])

    pairs = to_table([pair(index) for index in range(script.pairs)], PreferencePair)
    stubs = {
        "base_model": lambda engines: BASE,
        "roles_of": lambda engines, policy: None,
        "ingest_problems": lambda session: (phase, manifest("problems")),
        "roll_out": roll_out,
        "read_columns": lambda path, columns: iter([pairs] if columns == PAIR_COLUMNS else []),
        "collect_pairs": lambda session, rollouts, iteration: (phase, manifest("pairs")),
        "learn": learn,
        "evaluate": evaluate,
        "train_reward": train_reward,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(evolve, name, stub)
    session = SimpleNamespace(
        settings=settings,
        board=SimpleNamespace(log=script.said.append),
        events=SimpleNamespace(record=lambda *_, **__: None),
    )
    return evolve._run(session)  # type: ignore[arg-type]


def decisions(summary: Any) -> list[bool]:
    return [item["promoted"] for item in summary["iterations"]]


def test_each_better_policy_makes_the_next_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[answers(5), answers(6), answers(8)])
    summary = run(monkeypatch, script)
    assert decisions(summary) == [True, True, True]
    assert script.policies == script.anchors == ["base", "m0", "m1"]
    assert script.rates == [1.0, 1.0, 1.0]
    assert [item["refusal"] for item in summary["iterations"]] == [None] * 3
    assert script.beside == [True] * 3


def test_a_worse_policy_is_refused_and_the_rate_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[answers(4), answers(6), answers(6)])
    summary = run(monkeypatch, script)
    assert decisions(summary) == [False, True, True]
    assert script.policies == ["base", "base", "m1"]
    assert script.rates == [1.0, 0.5, 0.5]
    assert "0.500 to 0.400" in summary["iterations"][0]["refusal"]


def test_two_refusals_in_a_row_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[answers(4), answers(3), answers(9)])
    summary = run(monkeypatch, script)
    assert decisions(summary) == [False, False]
    assert script.said[-1] == "2 policies in a row were refused; the run ends"


def test_a_collapse_halves_the_rate_and_keeps_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[[], answers(7), answers(7)], collapses=(0,))
    summary = run(monkeypatch, script)
    assert decisions(summary) == [False, True, True]
    assert script.rates == [1.0, 0.5, 0.5]
    assert summary["iterations"][0]["training"] is None
    assert summary["iterations"][0]["refusal"] == "training collapsed: it fell"


def test_too_few_pairs_keep_the_policy_and_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[[], answers(7), answers(7)], unfit=(0,))
    summary = run(monkeypatch, script)
    assert decisions(summary) == [False, True, True]
    assert script.rates == [1.0, 1.0]
    few = run(monkeypatch, Script(after=[], pairs=1), training={"min_pairs": 2})
    assert decisions(few) == [False, False]
    assert "min_pairs (2)" in few["iterations"][0]["refusal"]


def test_answers_that_run_away_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[answers(6, truncated=4)] * 2)
    summary = run(monkeypatch, script, promotion={"max_truncated_share": 0.3})
    assert decisions(summary) == [False, False]
    assert "40%" in summary["iterations"][0]["refusal"]


def test_the_reference_can_stay_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[answers(6), answers(7), answers(8)])
    run(monkeypatch, script, training={"reference": "initial"})
    assert script.anchors == ["base"] * 3


def trained(**schedule: Any) -> dict[str, Any]:
    training = {"batch_size": 8}
    # Not step tags: those ask for a base with a configuration.
    shaped = {"pool": {"kv_cache_gib": 1}, "shape": "classifier"}
    settings = shaped | {"training": training, "schedule": schedule}
    return {"scorer": {"kind": "rollout_value", "trained": settings}}


def test_a_good_own_reward_model_takes_over_and_learns_on(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[answers(6)] * 3, handover_refusals=[None, None])
    summary = run(monkeypatch, script, engines=trained())
    assert script.scored_by == [None, "prm0", "prm1"]
    assert script.learned_from == [[False], [False, True]]
    assert script.beside == [False, False, True]  # the reward model's workers need the place
    sources = [item["reward"]["source"] for item in summary["iterations"]]
    assert sources == ["rollout_value", "trained", "trained"]


def test_a_refused_own_reward_model_leaves_the_source_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(after=[answers(6)] * 3, handover_refusals=["AUC 0.5", None])
    summary = run(monkeypatch, script, engines=trained())
    assert script.scored_by == [None, None, "prm1"]
    assert "the reward source stays (AUC 0.5)" in script.said[0]
    assert summary["iterations"][0]["reward"]["trained"]["refusal"] == "AUC 0.5"


def test_an_own_reward_model_that_grew_worse_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[answers(6)] * 3, handover_refusals=[None, "AUC 0.5"])
    run(monkeypatch, script, engines=trained())
    assert script.scored_by == [None, "prm0", "prm0"]


def test_the_hand_over_waits_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(after=[answers(6)] * 3, handover_refusals=[None, None])
    run(monkeypatch, script, engines=trained(from_iteration=2))
    assert script.scored_by == [None, None, "prm1"]


def test_a_base_of_the_trained_model_that_is_not_there_ends_the_run_at_its_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = Script(after=[answers(6)] * 3)
    engines = trained()
    engines["scorer"]["trained"]["base"] = {"path": str(tmp_path / "nowhere")}
    with pytest.raises(ModelError, match="nowhere"):
        run(monkeypatch, script, engines=engines)
    assert script.policies == []


def test_a_run_directory_must_be_a_path_where_models_are_trained() -> None:
    settings = RunSettings.model_validate(
        {
            "name": "t",
            "run_dir": "memory://bucket/run",
            "problems": SOURCES,
            "engines": {"policy": {"path": "m"}, "policy_pool": {"kv_cache_gib": 1}},
        }
    )
    with pytest.raises(RunDirectoryError, match="mount"):
        evolve.run(settings)
