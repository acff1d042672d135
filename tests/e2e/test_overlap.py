"""An overlapped run on simulated engines and a simulated trainer, undisturbed and killed.

`tests/evolution/test_overlapped_kills.py` kills it more often, without Ray.
"""

import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from driving import REPOSITORY, Driver, committed
from recompute import rows

from tests.simulated_problems import simulated_problem

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]

PROGRAM = [sys.executable, str(REPOSITORY / "tests" / "e2e" / "simulated_training.py"), "run"]
ITERATIONS, KILLS, SEED = 4, 2, 5
BATCH, IN_FLIGHT = 2, 3
TRAIN, LATENCY_S, STEP_S = 16, 0.1, 0.2
VERIFIER = """
import time

def noting(response, gold):
    with open({log!r}, "a") as file:
        file.write(f"{{time.time()}} {{gold}}\\n")
    return response.split()[-1] == gold
"""


@dataclass(frozen=True)
class Made:
    """A run in a folder of its own, with notes of its work that outlive its processes."""

    folder: Path

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def graded(self) -> list[tuple[float, str]]:
        """When which gold was compared with an answer."""
        lines = [line.split() for line in lines_of(self.folder / "graded")]
        return [(float(moment), gold) for moment, gold in lines]

    @property
    def trained(self) -> list[str]:
        """Optimizer steps that were taken, with the training they belong to."""
        return lines_of(self.folder / "trained")

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in lines_of(self.run_dir / "events.jsonl")]

    @property
    def moved(self) -> int:
        """Grows with whatever is done."""
        return len(self.graded) + 5 * len(self.trained)

    def has_moved(self, so_far: int) -> bool:
        return self.moved >= so_far

    @property
    def half_done(self) -> list[str]:
        """The steps that were begun."""
        files = self.run_dir.glob("**/begun.json")
        return [str(file.parent.relative_to(self.run_dir)) for file in files]

    def start(self, step_s: float) -> Driver:
        notes = {"STEP_S": str(step_s), "TRAINED": str(self.folder / "trained")}
        os.environ |= notes | {"PYTHONPATH": f"{REPOSITORY}:{self.folder}"}
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        return Driver([*PROGRAM, str(self.folder / "run.yaml")], log)

    def finish(self, step_s: float) -> float:
        """Run it to its end; returns the seconds."""
        began, driver = time.monotonic(), self.start(step_s)
        try:
            assert driver.process.wait(900) == 0, driver.log()
        finally:
            driver.end()
        return time.monotonic() - began


def lines_of(file: Path) -> list[str]:
    """The whole lines of a file that somebody may write."""
    return file.read_text().split("\n")[:-1] if file.exists() else []


def made(folder: Path, *, train: int, latency_s: float, few: int = 8) -> Made:
    """A folder with a configuration, problems and a verifier."""
    folder.mkdir()
    (folder / "notes.py").write_text(VERIFIER.format(log=str(folder / "graded")))
    numbers, problems = iter(range(10**6)), {}
    for split, count in {"train": train, "validation": few, "test": few}.items():
        found = [simulated_problem(next(numbers)) for _ in range(count)]
        lines = [json.dumps({"question": p.question, "answer": p.answer}) for p in found]
        (folder.parent / f"{split}-{count}.jsonl").write_text("\n".join(lines))
        problems[split] = {"source": f"file:{folder.parent / split}-{count}.jsonl"}
    config = {
        "name": "overlap",
        "run_dir": str(folder / "run"),
        "iterations": ITERATIONS,
        "schedule": "overlapped",
        "problems": problems,
        "engines": {
            "backend": "simulated",
            "simulated": {"accuracy": 0.5, "latency_s": latency_s},
            "policy": {"path": "policy"},
            "policy_pool": {"max_num_seqs": 64, "kv_cache_gib": 1},
            "scorer": {"kind": "simulated"},
        },
        "grading": {"verifier": "notes:noting", "workers": 1},
        "rollout": {"batch_size": BATCH, "batches_in_flight": IN_FLIGHT},
        "training": {"batch_size": 1},
        # Simulated answers are the same whatever the model: eight problems exclude no loss.
        "promotion": {"candidates": ["trained"], "max_loss": 1.0},
        "ray": {"address": "local", "num_cpus": 6, "object_store_gib": 0.5, "dashboard": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return Made(folder)


def timeless(value: Any) -> Any:
    """A summary without what tells of time."""
    if isinstance(value, list):
        return [timeless(each) for each in value]
    if not isinstance(value, dict):
        return value
    told = ("second", "per_hour", "pools")
    kept = {name: each for name, each in value.items() if not any(word in name for word in told)}
    return {name: timeless(each) for name, each in kept.items()}


def summary(run: Made) -> Any:
    return timeless(json.loads((run.run_dir / "summary.json").read_text()))


@dataclass(kw_only=True)
class Story:
    """An undisturbed run, and one that was killed: when, what was committed and what half done."""

    calm: Made
    killed: Made
    kills: list[tuple[float, dict[str, set[str]], list[str]]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("overlap")
    calm, killed = (
        made(folder / name, train=TRAIN, latency_s=LATENCY_S) for name in ("calm", "killed")
    )
    calm.finish(STEP_S)
    story, whole = Story(calm=calm, killed=killed), calm.moved
    draw = random.Random(SEED)
    for moment in sorted(draw.randint(1, whole) for _ in range(KILLS)):
        driver = killed.start(STEP_S)
        try:
            driver.until(partial(killed.has_moved, moment))
            story.left += driver.kill()
        finally:
            driver.end()
        found = {step: set(committed(killed.run_dir / step)) for step in killed.half_done}
        story.kills.append((time.time(), found, killed.half_done))
    killed.finish(STEP_S)
    return story


def by_problem(folder: Path) -> dict[str, Any]:
    found = rows(folder)
    assert len({row["problem_id"] for row in found}) == len(found)
    return {row["problem_id"]: row for row in found}


def test_what_kills_leave_is_what_an_undisturbed_run_makes(story: Story) -> None:
    assert len(story.kills) == KILLS
    assert any(len(half_done) > 1 for _, _, half_done in story.kills)
    assert summary(story.killed) == summary(story.calm)
    for number in range(ITERATIONS):
        place = f"iter-{number:03}/rollouts"
        calm, killed = (by_problem(run.run_dir / place) for run in (story.calm, story.killed))
        assert calm == killed
    assert [process for process in story.left if "Agent" not in process] == []


def test_every_step_is_committed_once(story: Story) -> None:
    for run in (story.calm, story.killed):
        paths = [each["path"] for each in run.events if each["event"] == "committed"]
        assert sorted(paths) == sorted(summary(run)["steps"])


def test_no_committed_row_is_made_again(story: Story) -> None:
    problems = by_problem(story.killed.run_dir / "problems" / "train")
    golds = {name: row["answer"] for name, row in problems.items()}
    graded, ends = story.killed.graded, {}
    for each in story.killed.events:
        if each["event"] == "committed":
            ends[each["path"]] = datetime.fromisoformat(each["time"]).timestamp()
    looked_at = 0
    for moment, found, _ in story.kills:
        for place, ids in found.items():
            if place.endswith("rollouts"):
                again = {gold for when, gold in graded if moment < when < ends[place]}
                assert again.isdisjoint(golds[each] for each in ids)
                looked_at += len(ids)
    assert looked_at


def test_no_optimizer_step_is_taken_again_that_has_a_checkpoint(story: Story) -> None:
    taken, calm = story.killed.trained, story.calm.trained
    assert len(calm) == len(set(calm))
    assert set(taken) == set(calm)
    assert len(taken) - len(set(taken)) <= KILLS  # a kill may fall between a step and its note


def test_pairs_say_who_wrote_them(story: Story) -> None:
    found = [item["writers"] for item in summary(story.killed)["iterations"]]
    # The second iteration's policy is refused, so the third one's rollouts are not behind.
    assert [[(w["iteration"], w["lag"]) for w in each] for each in found] == [
        [(0, 0)],
        [(1, 1)],
        [(1, 1), (2, 0)],
        [(3, 1)],
    ]
    manifest = json.loads((story.killed.run_dir / "iter-002/policy/manifest.json").read_text())
    assert manifest["report"]["writers"] == found[2]
