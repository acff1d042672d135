"""`sphere plan`: what it prints, what it refuses, and that it starts nothing."""

from pathlib import Path

import pytest

from sphere_ray.commands.plan import record_of
from sphere_ray.errors import RunDirectoryError
from sphere_ray.runs.directory import Run
from tests.report.made import write_run

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


@pytest.fixture
def plan(sphere, tmp_path, monkeypatch):
    # No download: a hub that is asked is no hub.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    fresh = f"run_dir={tmp_path / 'fresh'}"

    def call(config, *arguments):
        return sphere("plan", str(CONFIGS / f"{config}.yaml"), "--set", fresh, *arguments)

    return call


def test_the_7b_on_eight_gpus_is_planned_offline(plan, tmp_path):
    code, out, err = plan("qwen2.5-7b", "--on", "8x80GB", "--price", "2.5")
    assert (code, err) == (0, "")
    for part in ("7,615,616,512 parameters x 2 bytes", "in turn with them", "GPU-hours x 2.5 = "):
        assert part in out
    assert "does not fit" not in out
    assert not (tmp_path / "fresh").exists()


def test_what_does_not_fit_is_said_after_its_memory(plan):
    code, out, err = plan("qwen2.5-7b", "--on", "2*4x80GB/3cpu,6cpu")
    assert code == 2
    assert "7,615,616,512 parameters" in out
    assert "error: training needs 8 workers, each with a whole GPU" in err
    assert "room for 6 (node-1 3, node-2 3, node-3 0): 2 short" in err


def test_a_plan_of_this_machine_names_its_cores(plan):
    code, out, _ = plan("laptop")
    assert code == 0
    assert "they share the cores of a node" in out
    assert "GPU-hours" not in out


@pytest.mark.parametrize(
    ("config", "arguments", "told"),
    [
        ("qwen2.5-7b", ["--on", "8x"], "--on 8x cannot be read; write [COUNT*]GPUSxGPU"),
        ("qwen2.5-7b", ["--on", "8xB9"], "GPU B9 is unknown; name one of L4"),
        (
            "qwen2.5-7b",
            ["--on", "8x80GB", "--set", "engines.policy.path=a/b"],
            "--model-config a/b=CONFIG.JSON",
        ),
        ("laptop", ["--model-config", "x=y"], "names no file"),
        ("laptop", ["--like", "nowhere"], "is not a run directory"),
    ],
)
def test_mistakes_are_told_in_a_sentence(plan, config, arguments, told):
    code, out, err = plan(config, *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_a_run_is_counted(tmp_path):
    path = write_run(tmp_path / "run")
    record, run = record_of(path), Run.open(path)
    rollouts = run.step("rollouts", 0)
    pairs = run.step("pairs", 0)
    assert record.habits.pairs == pairs.manifest.report.rows_out / rollouts.manifest.report.rows_in
    assert 0 < record.habits.both_wrong < 1
    assert record.habits.both_wrong + record.habits.both_right <= 1
    assert record.nodes == 2
    assert record.settings.problems.train.limit == rollouts.manifest.report.rows_in
    took = rollouts.manifest.report.seconds
    both = run.step("rollouts", 1).manifest.report.seconds
    assert record.work_s["rollouts"] + record.start_s["rollouts"] == pytest.approx(
        (took + both) / 2
    )
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunDirectoryError, match="has not finished an iteration"):
        record_of(path)
