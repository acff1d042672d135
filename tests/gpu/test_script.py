"""The script for machines with a GPU, with tiny shapes on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.__main__ import CHECKS

pytestmark = [pytest.mark.slow, pytest.mark.engine]
SCRIPT = Path(__file__).with_name("run.sh")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_check_passes_with_tiny_shapes(tmp_path: Path) -> None:
    done = run("--tiny", OUT=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    found = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert {name: each["status"] for name, each in found["checks"].items()} == dict.fromkeys(
        CHECKS, "passed"
    ), done.stdout
    assert done.returncode == 0
    assert all(f"| {name} |" in done.stdout for name in CHECKS)


def test_without_a_gpu_it_says_what_has_not_run(tmp_path: Path) -> None:
    done = run(str(tmp_path / "found.json"), CUDA_VISIBLE_DEVICES="")
    checks = json.loads((tmp_path / "found.json").read_text("utf-8"))["checks"]
    assert {(each["status"], each["reason"]) for each in checks.values()} == {
        ("not run", "torch sees no GPU")
    }
    assert done.stdout.count("not run: torch sees no GPU") == len(CHECKS)
    assert done.returncode == 0
