"""The step that trains a reward model: what ends its training, and what a refusal keeps."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sphere_ray import storage
from sphere_ray.config.models import ModelSettings
from sphere_ray.config.scorers import TrainedScorerSettings
from sphere_ray.errors import (
    CollapseError,
    ModelError,
    RunDirectoryError,
    TooFewLabelsError,
    TrainingError,
)
from sphere_ray.method.audit import Audit, corrected
from sphere_ray.models.source import model_fingerprint, resolve_model
from sphere_ray.records import (
    Branch,
    Chain,
    FinishReason,
    LabelledStep,
    ModelRef,
    Problem,
    Rollout,
    StageName,
    Step,
    Verdict,
)
from sphere_ray.reporting.progress import ProgressBoard
from sphere_ray.reward.labels import labelled_steps
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.labelling import LabelCounts
from sphere_ray.runs.step import Executor, Made
from sphere_ray.runs.steps.reward_model import Recorded, RewardModelStep, reward_base_dir
from sphere_ray.schema import to_table
from sphere_ray.training.messages import RewardTrainRequest
from tests.method.fakes import candidate
from tests.runs.steps import opened

Attempt = Callable[..., Made]


def rollout(index: int, *, valued: bool) -> Rollout:
    problem = Problem(problem_id=str(index), question=f"{index} + 2?", answer="4", source="test")
    found = {"reward": index % 2 / 2, "values": (float(index % 2), 0.0)} if valued else {}
    step = replace(candidate(f"step {index}"), **found)
    chain = Chain(
        chain_id=f"c{index}",
        stage=StageName.SELF_GENERATION,
        branch=Branch.MAX,
        model="m",
        steps=(Step(candidates=(step,), chosen=0),),
        answer=None,
        verdict=Verdict.WRONG,
        finish_reason=FinishReason.ANSWER,
        num_tokens=1,
        seed=0,
    )
    return Rollout(problem=problem, chains=(chain,))


def labels_in_this_process(rollouts: list[Rollout]) -> Callable[..., LabelCounts]:
    """In the place of the Ray Data graph that labels recorded steps."""

    def label(sources: Any, output: str, *, share: float, seed: int, audit: Audit) -> LabelCounts:
        counts = {}
        for side, wanted in (("train", False), ("held_out", True)):
            steps = [
                step
                for each in rollouts
                if (int(each.problem.problem_id) % 5 == 0) is wanted
                for step in labelled_steps(corrected(each, audit)[0], trained=False)
            ]
            storage.write_table(to_table(steps, LabelledStep), f"{output}/{side}/part.parquet")
            counts[side] = len(steps)
        return LabelCounts(**counts)

    return label


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """Train on rollouts with recorded values (or without), by workers that end with an error."""
    base = resolve_model(ModelSettings(path="tiny:llama"), cache_dir=tmp_path / "models")
    policy = ModelRef(path=base, iteration=0, fingerprint=model_fingerprint(base))
    made = Made(name="rollouts", path=str(tmp_path / "rollouts"), finished=None)
    recorded = (Recorded(rollouts=made, trained=False),)
    monkeypatch.setattr(Made, "output", property(lambda self: "r"))

    def run(
        error: Exception,
        *,
        valued: bool = True,
        count: int = 20,
        sees: Callable[[RewardTrainRequest], None] = lambda _: None,
        **changes: Any,
    ) -> Made:
        trained = TrainedScorerSettings.model_validate({"pool": {"kv_cache_gib": 1}} | changes)
        rollouts = [rollout(index, valued=valued) for index in range(count)]
        monkeypatch.setattr(pipeline, "label", labels_in_this_process(rollouts))

        def work(request: RewardTrainRequest, on_step: Any) -> None:
            sees(request)
            raise error

        with opened(tmp_path / "run") as directory:
            session: Any = SimpleNamespace(
                run=directory,
                board=ProgressBoard(Console(file=io.StringIO())),
                record=lambda *_, **__: None,
                connect=lambda: None,
                workers=lambda iteration: SimpleNamespace(run=work),
            )
            step = RewardModelStep(
                iteration=0,
                settings=directory.settings,
                trained=trained,
                recorded=recorded,
                base=policy,
            )
            return Executor(session).make(step)

    return run


def refusal(made: Made) -> str:
    return str(storage.read_json(f"{made.path}/outcome.json")["refusal"])


@pytest.mark.parametrize(
    "error", [CollapseError("the loss diverged at step 3"), TooFewLabelsError("2 problems")]
)
def test_training_that_cannot_end_well_is_a_refusal_and_is_not_tried_again(
    attempt: Attempt, error: Exception
) -> None:
    found = attempt(error)
    assert found.finished is not None
    assert found.finished.model is None
    assert refusal(found) == str(error)
    again = attempt(AssertionError("the step is finished"))
    assert refusal(again) == str(error)


def test_without_a_held_out_problem_nothing_is_trained(attempt: Attempt) -> None:
    found = attempt(AssertionError("no workers are needed"), count=1)
    assert "no problem is left to train on" in refusal(found)


def test_workers_that_fail_end_the_run_and_the_next_attempt_starts_anew(attempt: Attempt) -> None:
    with pytest.raises(TrainingError, match="worker 1"):
        attempt(TrainingError("worker 1 kept failing"))
    assert refusal(attempt(CollapseError("diverged"))) == "diverged"


def test_rollouts_without_values_are_named(attempt: Attempt) -> None:
    with pytest.raises(RunDirectoryError, match=r"rollouts: no step has a recorded value"):
        attempt(AssertionError("no workers are needed"), valued=False)


@pytest.mark.parametrize(
    "change", [{"model_type": "gemma3_text"}, {"attention_bias": True}, {"head_dim": 1}]
)
def test_a_base_that_the_step_tag_format_cannot_hold_is_refused_before_anything_runs(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    base = Path(resolve_model(ModelSettings(path="tiny:llama"), cache_dir=tmp_path))
    policy = ModelRef(path=str(base), iteration=0, fingerprint="")
    tags, classifier = (
        TrainedScorerSettings.model_validate({"pool": {"kv_cache_gib": 1}, "shape": shape})
        for shape in ("step_tags", "classifier")
    )
    assert reward_base_dir(tags, policy) == str(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=r"trained\.base .* trained\.shape: classifier"):
        reward_base_dir(tags, policy)
    assert reward_base_dir(classifier, policy) == str(base)


@pytest.fixture
def cut(tmp_path: Path) -> Callable[..., str]:
    """Where the base lies for a trained model of so many layers, its config.json changed."""
    base = Path(resolve_model(ModelSettings(path="tiny:llama"), cache_dir=tmp_path))
    policy = ModelRef(path=str(base), iteration=0, fingerprint="")
    config = json.loads((base / "config.json").read_text())

    def lies(layers: int, *, shape: str = "step_tags", **change: Any) -> str:
        (base / "config.json").write_text(json.dumps(config | change))
        trained = {"pool": {"kv_cache_gib": 1}, "layers": layers, "shape": shape}
        return Path(reward_base_dir(TrainedScorerSettings.model_validate(trained), policy)).name

    return lies


TAGGED = ["Qwen2ForProcessRewardModel"]
CLASSIFIED = ["LlamaForSequenceClassification"]


@pytest.mark.parametrize(
    ("layers", "change", "told"),
    [
        (3, {}, r"trained\.layers \(3\) is more than the 2 layers of .*; lower it"),
        (1, {"num_hidden_layers": None}, "has no num_hidden_layers; set trained.layers: null"),
        (1, {"architectures": TAGGED}, "a reward model already"),
        (1, {"architectures": CLASSIFIED, "shape": "classifier"}, "a reward model already"),
    ],
)
def test_layers_that_a_base_does_not_have_or_cannot_lose_are_refused_before_anything_runs(
    cut: Callable[..., str], layers: int, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        cut(layers, **change)


def test_a_base_may_lose_layers_with_a_head_of_the_other_shape_and_keep_all_with_any(
    cut: Callable[..., str],
) -> None:
    kept = {cut(2), cut(1), cut(2, architectures=TAGGED)}
    kept |= {cut(1, architectures=CLASSIFIED), cut(1, architectures=TAGGED, shape="classifier")}
    assert len(kept) == 1


@pytest.mark.parametrize("shape", ["step_tags", "classifier"])
def test_the_model_to_be_trained_has_the_layers_asked_for(attempt: Attempt, shape: str) -> None:
    found: list[int] = []

    def sees(request: RewardTrainRequest) -> None:
        config = json.loads((Path(request.model_dir) / "config.json").read_text())
        found.append(config["num_hidden_layers"])

    attempt(CollapseError("no need to train"), sees=sees, layers=1, shape=shape)
    assert found == [1]
