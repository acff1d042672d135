"""A training job's two phases are committed one by one, whatever ends the job."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sphere_ray.config import RunSettings
from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import CollapseError, TooFewPairsError, TrainingError
from sphere_ray.records import ModelRef, PhaseReport
from sphere_ray.reporting.progress import ProgressBoard
from sphere_ray.runs import learning, storage
from sphere_ray.runs.learning import Ahead, Trained, learn
from sphere_ray.runs.store import PhaseDir, RunStore
from sphere_ray.training.messages import (
    ReferenceDone,
    ReferenceProgress,
    ReferenceRequest,
    TrainRequest,
    TrainResult,
)
from tests.training.pairs import write_pairs
from tests.training.steps import STEP

PAIRS, USABLE = 5, 4
BASE = ModelRef(path="base", iteration=0, fingerprint="base")

Ending = Callable[[], None]


def well() -> None:
    pass


def ends(error: Exception) -> Ending:
    def ending() -> None:
        raise error

    return ending


class Workers:
    """In the place of Ray Train: computes the reference if asked to, then ends as told."""

    def __init__(self, *endings: Ending, too_few: bool = False) -> None:
        self.endings = list(endings)
        self.too_few = too_few
        self.asked: list[bool] = []
        self.jobs: list[Any] = []

    def __call__(
        self,
        request: TrainRequest,
        on_message: Callable[[Any], None],
        *,
        reference: ReferenceRequest | None,
        job: Any,
    ) -> TrainResult:
        self.asked.append(reference is not None)
        self.jobs.append(job)
        if job is not None:
            job.waits = False
        if self.too_few:
            raise TooFewPairsError("only 0 pairs can be trained on")
        for message in self.referring(reference) if reference else ():
            on_message(message)
        checkpoint = Path(request.storage_path) / "checkpoint"
        resumed = checkpoint.is_file()
        storage.write_text("step 1", str(checkpoint))
        on_message(STEP)
        self.endings.pop(0)()
        storage.write_text("weights", f"{request.output_dir}/model.safetensors")
        return TrainResult(
            model_dir=request.output_dir,
            pairs=USABLE,
            steps=1,
            loss_first=0.6,
            loss_last=0.6,
            reward_accuracy=1.0,
            seconds=1.0,
            history=(STEP,),
            resumed_at=int(resumed),
        )

    @staticmethod
    def referring(request: ReferenceRequest) -> Sequence[Any]:
        write_pairs(Path(request.output_dir) / "part-0.parquet", USABLE)
        done = ReferenceDone(pairs=USABLE, dropped={"too_long": 1}, tokens=80, seconds=0.5)
        # A group that was started anew before its first checkpoint says it twice.
        return (ReferenceProgress(done=USABLE), done, ReferenceProgress(done=2), done)


class Waiting:
    """A job that was started ahead; Ray Train makes its directory at once."""

    ended, waits = 0, True

    def __init__(self, name: str, storage_path: str, placement: TrainerPlacement) -> None:
        self.storage_path = Path(storage_path)
        assert not self.storage_path.exists()
        storage.write_text("", f"{storage_path}/{name}/controller")

    def __exit__(self, *_: object) -> None:
        self.ended += 1


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained | None]:
    settings = RunSettings.model_validate(
        {
            "name": "t",
            "run_dir": str(tmp_path / "run"),
            "problems": {s: {"source": f"file:{s}"} for s in ("train", "validation", "test")},
            "engines": {"policy": {"path": "m"}, "policy_pool": {"kv_cache_gib": 1}},
            "training": {"batch_size": 1},
        }
    )

    def attempt(workers: Workers, room: bool = False, work: bool = True) -> Trained | None:
        monkeypatch.setattr(learning, "train", workers)
        monkeypatch.setattr(learning, "can_train_ahead", lambda settings: room)
        monkeypatch.setattr(learning, "TrainingJob", Waiting)
        with RunStore.open(settings.run_dir, settings) as store:
            board = ProgressBoard(Console(file=io.StringIO()))
            session: Any = SimpleNamespace(
                settings=settings,
                store=store,
                board=board,
                make_room=lambda: None,
                events=SimpleNamespace(record=lambda *_, **__: None),
            )
            with Ahead(session=session, iteration=0) as ahead:
                ahead.start()
                if not work:
                    return None
                return learn(session, pairs_of(store), (BASE, BASE), 0, 1e-6, ahead)

    return attempt


def pairs_of(store: RunStore) -> PhaseDir:
    phase = store.phase(0, "pairs")
    if phase.committed() is None:
        phase.begin()
        write_pairs(Path(phase.path) / "part.parquet", PAIRS)
        phase.commit(
            PhaseReport(
                phase=phase.name,
                fingerprint=phase.fingerprint,
                rows_in=PAIRS,
                rows_out=PAIRS,
                seconds=0.0,
            )
        )
    return phase


def counts(trained: Trained) -> list[tuple[str, int, int, dict[str, int]]]:
    reports = [manifest.report for manifest in trained.manifests]
    return [(r.phase, r.rows_in, r.rows_out, dict(r.dropped)) for r in reports]


def test_one_job_makes_both_phases_and_the_next_call_none(run: Any) -> None:
    workers = Workers(well)
    trained = run(workers)
    assert counts(trained) == [
        ("reference", PAIRS, USABLE, {"too_long": 1}),
        ("policy", USABLE, USABLE, {}),
    ]
    assert trained.model.iteration == 1
    assert run(workers) == trained
    assert workers.asked == [True]


def test_a_table_is_kept_when_training_fails_and_its_checkpoint_too(run: Any) -> None:
    workers = Workers(ends(TrainingError("lost")), well)
    with pytest.raises(TrainingError):
        run(workers)
    trained = run(workers)
    assert workers.asked == [True, False]
    assert trained.result["resumed_at"] == 1


def test_checkpoints_without_their_table_are_not_used(run: Any, tmp_path: Path) -> None:
    workers = Workers(ends(TrainingError("lost")), well)
    with pytest.raises(TrainingError):
        run(workers)
    storage.remove(str(tmp_path / "run/iter-000/reference"))
    trained = run(workers)
    assert workers.asked == [True, True]
    assert trained.result["resumed_at"] == 0


def test_a_collapse_is_committed_without_a_model(run: Any) -> None:
    trained = run(Workers(ends(CollapseError("the chosen side fell"))))
    assert trained.model is None
    assert trained.result == {"error": "the chosen side fell"}
    assert counts(trained)[1] == ("policy", USABLE, 0, {"collapsed": USABLE})


def test_too_few_pairs_leave_nothing_committed(run: Any, tmp_path: Path) -> None:
    with pytest.raises(TooFewPairsError):
        run(Workers(too_few=True))
    (only,) = (tmp_path / "run/iter-000").glob("*/manifest.json")
    assert only.parent.name == "pairs"


def test_workers_that_were_started_ahead_are_used_and_ended(run: Any, tmp_path: Path) -> None:
    workers = Workers(well)
    trained = run(workers, room=True)
    (job,) = workers.jobs
    assert job.ended == 1
    assert not job.storage_path.exists()
    assert trained.model.iteration == 1
    assert (tmp_path / "run/iter-000/policy/model").is_dir()


def test_what_was_begun_is_continued_by_workers_of_its_own(run: Any) -> None:
    workers = Workers(ends(TrainingError("lost")), well)
    with pytest.raises(TrainingError):
        run(workers, room=True)
    trained = run(workers, room=True)
    assert [job is not None for job in workers.jobs] == [True, False]
    assert trained.result["resumed_at"] == 1


def test_workers_that_failed_while_they_waited_are_replaced(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Waiting, "waits", False)
    workers = Workers(well)
    assert run(workers, room=True).model.iteration == 1
    assert workers.jobs == [None]


def test_nothing_remains_of_workers_that_got_no_work(run: Any, tmp_path: Path) -> None:
    run(Workers(), room=True, work=False)
    assert (tmp_path / "run/iter-000").is_dir()  # they were there
    assert not (tmp_path / "run/iter-000/_train").exists()


def test_checkpoints_of_a_policy_that_was_removed_are_not_used(run: Any, tmp_path: Path) -> None:
    workers = Workers(ends(TrainingError("lost")), well)
    with pytest.raises(TrainingError):
        run(workers, room=True)
    assert (tmp_path / "run/iter-000/_train").is_dir()
    storage.remove(str(tmp_path / "run/iter-000/policy"))
    assert run(workers, room=True).result["resumed_at"] == 0
