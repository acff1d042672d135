"""What a checkpoint is bound to, and what is done with one that does not fit."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sphere_ray.config.models import PoolSettings
from sphere_ray.config.scorers import TrainedScorerSettings
from sphere_ray.config.training import GuardSettings, TrainerPlacement, TrainingSettings
from sphere_ray.training import history
from sphere_ray.training.history import keep, origin, restore
from sphere_ray.training.messages import RewardTrainRequest, StepMetrics, TrainRequest
from sphere_ray.training.workers import Host, Worker
from tests.training.steps import STEP

REQUEST = TrainRequest(
    model_dir="/models/base",
    reference_path="/run/reference",
    output_dir="/run/policy",
    seed=0,
    learning_rate=1e-6,
    settings=TrainingSettings(precision="fp32"),
    placement=TrainerPlacement(workers=2),
)
REWARD = RewardTrainRequest(
    model_dir="/models/base",
    train_path="/run/train",
    held_out_path="/run/held_out",
    output_dir="/run/reward",
    scores_path="/run/scores.parquet",
    seed=0,
    trained=TrainedScorerSettings(pool=PoolSettings(kv_cache_gib=1)),
    placement=TrainerPlacement(workers=2),
)


def changed(request: TrainRequest, **settings: Any) -> TrainRequest:
    return replace(request, settings=request.settings.model_copy(update=settings))


@pytest.mark.parametrize(
    "same",
    [
        changed(REQUEST, checkpoint_every=3),
        changed(REQUEST, min_pairs=5),
        replace(REQUEST, placement=TrainerPlacement(workers=2, max_failures=9, cpus_per_worker=2)),
    ],
)
def test_what_changes_no_weight_is_not_in_it(same: TrainRequest) -> None:
    assert origin(same) == origin(REQUEST)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (replace(REQUEST, learning_rate=2e-6), "learning_rate"),
        (replace(REQUEST, reference_path="/other"), "reference_path"),
        (changed(REQUEST, epochs=2), "settings.epochs"),
        (changed(REQUEST, guard=GuardSettings(window=2)), "settings.guard.window"),
        (changed(REQUEST, micro_batch_size=2), "micro_batch_size"),
        (replace(REQUEST, placement=TrainerPlacement(workers=4)), "workers"),
        (replace(REQUEST, placement=TrainerPlacement(workers=2, zero_stage=3)), "zero_stage"),
    ],
)
def test_what_changes_weights_or_files_is(other: TrainRequest, name: str) -> None:
    there, here = origin(REQUEST), origin(other)
    assert [key for key in there if there[key] != here[key]] == [name]


def test_the_stage_that_runs_counts() -> None:
    """One fp32 worker runs stage 0 whether 1 or 2 is asked for; with bf16 they differ."""
    for precision, same in (("fp32", True), ("bf16", False)):
        one, two = (
            origin(
                replace(
                    changed(REQUEST, precision=precision),
                    placement=TrainerPlacement(workers=1, zero_stage=stage),
                )
            )
            for stage in (1, 2)
        )
        assert (one == two) == same


def test_where_a_reward_models_scores_go_does_not_count() -> None:
    assert origin(replace(REWARD, scores_path="/elsewhere", held_out_path="/o")) == origin(REWARD)
    assert origin(replace(REWARD, train_path="/elsewhere")) != origin(REWARD)


class Policy:
    """In the place of a sharded model."""

    def save(self, directory: Path, state: Any) -> None:
        directory.mkdir(parents=True)
        (directory / "state").write_text(json.dumps(state))

    def load(self, directory: Path) -> Any:
        return json.loads((directory / "state").read_text())


class Storage:
    """One worker's host with the checkpoints of one job."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.latest: Path | None = None
        monkeypatch.setattr(Worker, "gather", lambda worker, value: [value])
        latest: Callable[[], AbstractContextManager[Path | None]] = lambda: nullcontext(self.latest)  # noqa: E731
        host = Host(
            device=torch.device("cpu"),
            report=lambda message: None,
            latest_checkpoint=latest,
            new_checkpoint=self.new,
        )
        self.worker = Worker(rank=0, world=1, host=host)
        self.policy: Any = Policy()

    def new(self, name: str) -> AbstractContextManager[Path]:
        assert not (self.root / name).exists()
        self.latest = self.root / name
        return nullcontext(self.latest)

    def keep(self, request: TrainRequest) -> None:
        keep(request, self.policy, self.worker, [STEP])

    def restore(self, request: TrainRequest) -> tuple[list[StepMetrics], str | None]:
        return restore(request, self.policy, self.worker, StepMetrics)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    return Storage(tmp_path, monkeypatch)


def test_the_same_request_continues(storage: Storage) -> None:
    assert storage.restore(REQUEST) == ([], None)
    storage.keep(REQUEST)
    storage.keep(REQUEST)  # the same step again, after a failure: under another name
    assert storage.restore(changed(REQUEST, checkpoint_every=3)) == ([STEP], None)


def test_another_request_for_the_same_model_starts_over_and_says_why(storage: Storage) -> None:
    storage.keep(REQUEST)
    steps, reason = storage.restore(replace(REQUEST, placement=TrainerPlacement(workers=4)))
    assert not steps
    assert reason is not None
    assert "workers: 2 there, 4 here" in reason


def test_another_version_starts_over(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.keep(REQUEST)
    monkeypatch.setattr(history, "version", lambda _: "9.9")
    steps, reason = storage.restore(REQUEST)
    assert not steps
    assert reason is not None
    assert "deepspeed: " in reason


def test_the_checkpoint_of_another_model_is_passed_over(storage: Storage) -> None:
    storage.keep(REQUEST)
    assert storage.restore(replace(REQUEST, output_dir="/run/other", seed=9)) == ([], None)


def test_a_checkpoint_of_unknown_origin_is_not_trusted(storage: Storage) -> None:
    storage.keep(REQUEST)
    assert storage.latest is not None
    (storage.latest / "origin.json").unlink()
    assert storage.restore(REQUEST)[0] == []
