"""One run that is killed at three places, and still ends with every problem exactly once."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from driving import OWN_RAY, Driver, committed, num_rows, smoke
from recompute import check_run, rows

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROBLEMS = 40
LATEST = re.compile(r'"latest_checkpoint_result":\s*\{')
LITTLE = (
    *OWN_RAY,
    "ray.num_cpus=4",  # training's workers wait beside the rollouts
    f"problems.train.source=generated:arithmetic?split=train&count={PROBLEMS}&levels=1&max_answer=4",
    "problems.validation.limit=1",
    "problems.test.limit=1",
    "evaluation.num_samples=0",
    "rollout.batches_in_flight=2",
    "training.batch_size=2",
    "training.checkpoint_every=3",
)


@dataclass(kw_only=True)
class Story:
    """What was seen on the way."""

    run_dir: Path
    kept: dict
    rows_at_engine_death: int
    leftovers: list[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Driver killed in the rollout, engine killed in the resumed one, driver killed in training."""
    folder = tmp_path_factory.mktemp("kills")
    run_dir = folder / "run"
    rollouts = run_dir / "iter-000" / "rollouts"
    drivers = []

    def start():
        drivers.append(Driver(smoke(run_dir, *LITTLE), folder / f"{len(drivers)}.log"))
        return drivers[-1]

    try:
        first = start()
        first.until(lambda: num_rows(rollouts) >= 8)
        leftovers = first.kill()
        kept = committed(rollouts)
        assert 8 <= num_rows(rollouts) < PROBLEMS

        second = start()
        second.until(lambda: num_rows(rollouts) > len(kept))
        engine_core(second).kill()
        rows_at_engine_death = num_rows(rollouts)

        state = run_dir / "iter-000" / "_train"
        second.until(lambda: has_checkpoint(state))
        leftovers += second.kill()
        assert not (run_dir / "iter-000" / "policy" / "manifest.json").exists()

        third = start()
        assert third.process.wait(300) == 0, third.log()
    finally:
        for driver in drivers:
            driver.end()
    return Story(
        run_dir=run_dir,
        kept=kept,
        rows_at_engine_death=rows_at_engine_death,
        leftovers=leftovers,
    )


def has_checkpoint(folder):
    """Whether Ray Train counts on a checkpoint: its directory is there some time before that."""
    known = folder.glob("training-*/checkpoint_manager_snapshot.json")
    return any(LATEST.search(file.read_text()) for file in known)


def engine_core(driver):
    """The process of vLLM's engine among those of this run."""
    (found,) = [p for p in driver.descendants() if "EngineCore" in title(p)]
    return found


def title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_every_problem_is_there_exactly_once(story):
    wanted = {row["problem_id"] for row in rows(story.run_dir / "problems" / "train")}
    found = [row["problem_id"] for row in rows(story.run_dir / "iter-000" / "rollouts")]
    assert len(found) == len(wanted) == PROBLEMS
    assert set(found) == wanted


def test_committed_rows_are_not_generated_again(story):
    assert len(story.kept) >= 8
    now = {row["problem_id"]: row for row in rows(story.run_dir / "iter-000" / "rollouts")}
    assert story.kept.items() <= now.items()  # chains of a temperature, so no repetition is alike


def test_the_death_of_an_engine_costs_no_problem(story):
    assert len(story.kept) < story.rows_at_engine_death < PROBLEMS
    found = rows(story.run_dir / "iter-000" / "rollouts")
    assert [row["error"] for row in found if row["error"]] == []
    assert all(row["chains"] for row in found)


def test_training_continues_at_its_checkpoint(story):
    result = json.loads((story.run_dir / "iter-000/policy/training.json").read_text())
    steps = [step["step"] for step in result["history"]]
    assert result["resumed_at"] >= 3
    assert result["resumed_at"] % 3 == 0
    assert result["steps"] == -(-result["pairs"] // 2) >= 10
    assert steps == list(range(1, result["steps"] + 1))


def test_the_summary_is_that_of_an_undisturbed_run(story):
    check_run(story.run_dir)


def test_a_killed_driver_leaves_no_process_behind(story):
    # Ray's own agents of a node take longer than a minute on a busy machine; they hold no model.
    assert [process for process in story.leftovers if "Agent" not in process] == []
