"""Overlapped runs on steps that only take time: killed ten times, and stopped."""

import json
import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.evolution.clockwork import session
from tests.runs.steps import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ITERATIONS, KILLS, SEED = 4, 10, 7
HANGS_S = 600
FORKS = multiprocessing.get_context("forkserver")
# A process of its own for each session, without the seconds of its imports.
FORKS.set_forkserver_preload(["tests.evolution.clockwork"])


@dataclass(frozen=True)
class Clockwork:
    """A run of `clockwork.py` in a directory."""

    run_dir: Path
    schedule: str
    hour_s: float

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A process that works on the run; it does not outlive the block."""
        known = settings(
            run_dir=str(self.run_dir),
            iterations=ITERATIONS,
            schedule=self.schedule,
            promotion={"candidates": ["trained"], "max_loss": 1.0},
        )
        process = FORKS.Process(target=session, args=(known, self.hour_s, str(self.log)))
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()

    def finish(self) -> None:
        with self.session() as process:
            process.join(HANGS_S)
            assert process.exitcode == 0, self.log.read_text()

    def until(self, process: Any, condition: Callable[[], bool]) -> None:
        """Wait for what the files show while the process works."""
        deadline = time.monotonic() + HANGS_S
        while not condition():
            assert time.monotonic() < deadline
            process.join(0.02)
            assert process.exitcode is None, self.log.read_text()

    @property
    def log(self) -> Path:
        return self.run_dir.with_suffix(".log")

    @property
    def units(self) -> list[str]:
        """All units of work that any session did."""
        return lines_of(Path(f"{self.run_dir}.done"))

    def has_done(self, units: int) -> bool:
        return len(self.units) >= units

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in lines_of(self.run_dir / "events.jsonl")]

    @property
    def half_done(self) -> set[str]:
        """Kinds of steps that were begun."""
        return {file.parent.name for file in self.run_dir.glob("**/begun.json")}

    @property
    def summary(self) -> Any:
        return json.loads((self.run_dir / "summary.json").read_text())


def lines_of(file: Path) -> list[str]:
    return file.read_text().split("\n")[:-1] if file.exists() else []


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Clockwork:
    run = Clockwork(tmp_path_factory.mktemp("calm") / "run", "overlapped", hour_s=0.8)
    run.finish()
    return run


def same_steps(run: Clockwork, calm: Clockwork) -> None:
    """The run decided the same, from steps each of which was committed once."""
    assert run.summary == calm.summary
    assert json.loads((run.run_dir / "steps.json").read_text()) == json.loads(
        (calm.run_dir / "steps.json").read_text()
    )
    committed = Counter(each["path"] for each in run.events if each["event"] == "committed")
    assert set(committed.values()) == {1}
    assert sorted(committed) == sorted(name for name, _ in calm.summary["steps"])
    assert set(run.units) == set(calm.units)


def test_ten_kills_at_random_moments_change_nothing(calm: Clockwork, tmp_path: Path) -> None:
    run, both = Clockwork(tmp_path / "run", "overlapped", hour_s=0.8), 0
    draw = random.Random(SEED)
    for moment in sorted(draw.sample(range(1, len(calm.units)), KILLS)):
        with run.session() as process:  # killed at the end of the block
            run.until(process, partial(run.has_done, moment))
        both += len(run.half_done) > 1
    run.finish()
    assert both  # some met a rollout and a lesson, each half done
    same_steps(run, calm)
    # A kill may fall between a unit of either step and its note.
    assert len(run.units) - len(set(run.units)) <= 2 * KILLS


def test_a_stop_signal_ends_both_steps_and_the_run_goes_on(calm: Clockwork, tmp_path: Path) -> None:
    run = Clockwork(tmp_path / "run", "overlapped", hour_s=0.8)
    with run.session() as process:
        run.until(process, lambda: {"rollouts", "policy"} <= run.half_done)
        process.terminate()
        process.join(60)
        assert process.exitcode == 128 + signal.SIGTERM
    assert "Traceback" not in run.log.read_text()
    stopped = {each["phase"] for each in run.events if each["event"] == "phase_stopped"}
    assert stopped == {"rollouts", "policy"}
    run.finish()
    same_steps(run, calm)
    assert len(run.units) == len(set(run.units))


def test_pairs_say_who_wrote_them_and_how_far_behind(calm: Clockwork) -> None:
    # The second iteration's policy is refused, so the third one's rollouts are not behind, and
    # its training reads the pairs of both.
    writers = [item["writers"] for item in calm.summary["iterations"]]
    assert writers == [[[0, 0, 0]], [[1, 0, 1]], [[1, 0, 1], [2, 1, 0]], [[3, 1, 1]]]
    assert [item["promoted"] for item in calm.summary["iterations"]] == [True, False, True, True]
    manifest = json.loads((calm.run_dir / "iter-002/policy/manifest.json").read_text())
    found = [
        [w["iteration"], w["policy_iteration"], w["lag"]] for w in manifest["report"]["writers"]
    ]
    assert found == writers[2]
