"""What a run says to its trackers, and that it says it once."""

import json
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sphere_ray.errors import ConfigError
from sphere_ray.reporting.progress import PhaseState, Snapshot
from sphere_ray.runs.directory import Run, WritableRun
from sphere_ray.trackers import feed, registry
from sphere_ray.trackers.channel import Channel
from sphere_ray.trackers.feed import Trackers
from sphere_ray.trackers.port import Opening
from tests.trackers.runs import SECRET, opened, run, settings_with
from tests.trackers.test_channel import Fake


class Library(Fake):
    """Keeps numbers by group and place, and how it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.openings: list[Opening] = []
        self.numbers: dict[tuple[str, int], dict[str, float]] = {}
        self.texts: dict[str, str] = {}

    def open(self, run: Opening) -> str:
        self.openings.append(run)
        return run.run_id or "run-7"

    def log(self, group: str, x: int, values: Mapping[str, float]) -> None:
        assert (group, x) not in self.numbers
        self.numbers[group, x] = dict(values)

    def text(self, name: str, text: str) -> None:
        self.texts[name] = text


def test_a_run_says_everything_once(tmp_path: Path) -> None:
    library = Library()
    run(settings_with(tmp_path / "r", "mlflow"), lambda _: library)
    numbers = library.numbers
    assert [numbers["iter-000/policy", x]["loss"] for x in (1, 2, 3)] == [1.0, 1 / 2, 1 / 3]
    assert numbers["iter-000/policy", 3]["grad_norm"] == 1.0
    answers = numbers["steps/evaluation/base", 0]
    assert answers["accuracy"] == 2 / 3
    assert answers["mean_at_k"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert answers["dropped/failed"] == 1
    assert answers["pools/policy-1a2b/idle"] == 0.25
    assert answers["pools/policy-1a2b/prefix_hits"] == 0.75
    assert numbers["steps/policy", 0]["loss_last"] == 1 / 3
    assert numbers["decision", 0] == {"promoted": 1.0}
    assert numbers["result", 0]["difference"] == 0.5
    (over_time,) = (v for (group, _), v in numbers.items() if group == "evaluation/base")
    assert over_time["answers/correct"] == 5
    assert over_time["tokens"] == 70
    assert library.texts["lineage"] == (
        "- `iter-000/policy/model`: model0, from policy base0, reference ref0"
    )
    assert library.texts["decision/iteration-000"] == "promoted: trained"
    assert [Path(str(path)).name for path in library.kept[:-1]] == ["summary.json", "report.html"]
    assert library.kept[-1] is True


def test_no_secret_reaches_a_tracker(tmp_path: Path) -> None:
    library = Library()
    run(settings_with(tmp_path / "r", "mlflow"), lambda _: library)
    (opening,) = library.openings
    assert "host/train.jsonl" in json.dumps(opening.settings)
    assert SECRET not in json.dumps(opening.settings)


def test_a_later_session_continues_the_run_and_repeats_nothing(tmp_path: Path) -> None:
    first, second = Library(), Library()
    chosen = settings_with(tmp_path / "r", "mlflow")
    run(chosen, lambda _: first)
    run(chosen, lambda _: second, iterations=2)
    assert (first.openings[0].run_id, second.openings[0].run_id) == (None, "run-7")
    assert ("iter-000/policy", 1) not in second.numbers
    assert ("iter-001/policy", 1) in second.numbers
    assert [group for group in second.numbers if group[0] == "decision"] == [("decision", 1)]
    assert "iter-000" in second.texts["lineage"]
    assert "iter-001" in second.texts["lineage"]


def test_the_session_of_a_run_that_fails_is_closed_as_failed(tmp_path: Path) -> None:
    library, chosen = Library(), settings_with(tmp_path / "r", "mlflow")
    with pytest.raises(ZeroDivisionError), feed.tracking(opened(chosen), lambda _: library):
        raise ZeroDivisionError
    assert library.kept == [False]


def test_one_that_hangs_delays_the_end_by_its_patience_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feed, "CLOSE_S", 0.2)
    released = threading.Event()
    good = Library()

    class Hanging(Library):
        def open(self, run: Opening) -> str:
            released.wait()
            return ""

    def make(chosen: Any) -> Library:
        return good if chosen.kind == "mlflow" else Hanging()

    began = time.monotonic()
    run(settings_with(tmp_path / "r", "mlflow", "trackio", "tensorboard"), make)
    released.set()
    assert time.monotonic() - began < 10
    assert good.kept[-1] is True
    assert ("result", 0) in good.numbers
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert [text.split(" and ")[0] for text in warned] == [
        "tracker trackio does not answer,",
        "tracker tensorboard does not answer,",
    ]


def test_counters_go_out_at_intervals_and_at_the_end() -> None:
    fake = Fake()
    channel = Channel("fake", lambda: fake)
    trackers = Trackers(Run("/nowhere"), [channel], began=100.0, clock=lambda: 130.4)
    for seconds in range(31):
        trackers.on_progress(
            Snapshot(
                name="rollouts",
                iteration=3,
                unit="problems",
                total=99,
                done=seconds,
                seconds=float(seconds),
                state=PhaseState.RUNNING,
            )
        )
    end = Snapshot(
        name="rollouts",
        iteration=3,
        unit="problems",
        total=99,
        done=99,
        counts={"tokens": 310},
        seconds=31.0,
        state=PhaseState.FINISHED,
    )
    trackers.on_progress(end)
    channel.finish(lambda _: None)
    channel.wait(30)
    assert fake.kept == [
        *(("iter-003/rollouts", 30, {"done": float(done)}) for done in (10, 20, 30)),
        ("iter-003/rollouts", 30, {"done": 99.0, "tokens": 310.0, "tokens_per_second": 10.0}),
    ]


def test_a_missing_library_is_one_sentence_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed; install sphere-ray\[wandb\]"):
        run(settings_with(tmp_path / "r", "wandb"))


def test_a_run_directory_that_is_no_path_is_refused(tmp_path: Path) -> None:
    chosen = settings_with(tmp_path, "tensorboard")
    with (
        pytest.raises(ConfigError, match=r"memory://r is no path; mount"),
        feed.tracking(WritableRun("memory://r", chosen)),
    ):
        pass


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    run(settings_with(tmp_path / "r"))
    assert not (tmp_path / "r" / feed.STATE).exists()
