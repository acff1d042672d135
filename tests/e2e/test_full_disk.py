"""A disk that fills up in the middle of a run: one sentence, and the same command goes on."""

import json
import os
import subprocess
from contextlib import suppress
from itertools import count, islice

import pytest
import yaml
from driving import BIN, HANGS_S, Driver, committed, finish, num_rows
from recompute import rows

from tests.simulated_problems import simulated_problem

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2 * HANGS_S)]

COUNTS = {"train": 300, "validation": 4, "test": 4}


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of 64 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may mount no filesystem")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def configuration(folder, run_dir):
    problems = map(simulated_problem, count())
    for split, number in COUNTS.items():
        lines = [
            json.dumps({"question": p.question, "answer": p.answer})
            for p in islice(problems, number)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    pool = {"max_num_seqs": 16, "kv_cache_gib": 1}
    document = {
        "name": "full-disk",
        "run_dir": str(run_dir),
        "problems": {split: {"source": f"file:{folder / split}.jsonl"} for split in COUNTS},
        "engines": {
            "backend": "simulated",
            "policy": {"path": "policy"},
            "policy_pool": pool,
            "scorer": {"kind": "simulated"},
        },
        "rollout": {"batch_size": 4, "batches_in_flight": 2},
        "training": {"min_pairs": 10**6},
        "ray": {"address": "local", "num_cpus": 2, "object_store_gib": 0.5, "dashboard": False},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_full_disk_ends_a_run_with_a_sentence_and_loses_nothing(small_disk, tmp_path):
    rollouts, filler = small_disk / "run/iter-000/rollouts", small_disk / "filler"
    command = [str(BIN / "sphere"), "run", str(configuration(tmp_path, small_disk / "run"))]
    driver = Driver(command, tmp_path / "log")
    try:
        driver.until(lambda: num_rows(rollouts) >= 4)
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        assert driver.process.wait(HANGS_S) == 1, driver.log()
    finally:
        driver.end()
    said = driver.log().splitlines()[-1]
    assert said.startswith(f"error: {small_disk}"), driver.log()
    assert "No space left on device; free some space there, then run the same command" in said
    assert "Traceback" not in driver.log()
    kept = committed(rollouts)
    assert len(kept) >= 4
    filler.unlink()
    done = finish(command)
    assert done.code == 0, done.out + done.err
    found = {row["problem_id"]: row for row in rows(rollouts)}
    assert len(found) == COUNTS["train"]
    assert {name: found[name] for name in kept} == kept
