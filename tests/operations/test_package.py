"""What a job is sent: this package, its configuration, the files it names, and nothing else."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from sphere_ray.config.loading import settings_of
from sphere_ray.errors import ConfigError
from sphere_ray.operations import package
from sphere_ray.operations.package import CONFIG, Package, packed, require_sendable

DOCUMENT: dict[str, Any] = {
    "name": "test",
    "run_dir": "/shared/run",
    "problems": {
        split: {"source": f"generated:arithmetic?split={split}&count=4"}
        for split in ("train", "validation", "test")
    },
    "engines": {"policy": {"path": "tiny:llama"}, "policy_pool": {"kv_cache_gib": 1}},
}


@pytest.fixture
def open_packages() -> Any:
    with ExitStack() as stack:
        yield stack


def pack(stack: ExitStack, base: Path, *overrides: str) -> Package:
    document = yaml.safe_load(yaml.safe_dump(DOCUMENT))
    settings = settings_of(document, "test.yaml", overrides)
    return stack.enter_context(packed(document, settings, base))


def refused(*overrides: str, base: Path) -> str:
    settings = settings_of(yaml.safe_load(yaml.safe_dump(DOCUMENT)), "test.yaml", overrides)
    with pytest.raises(ConfigError) as error:
        require_sendable(settings, base)
    return str(error.value)


def names(sent: Package) -> set[str]:
    return {file.name for file in sent.directory.iterdir()}


def test_only_the_package_and_the_configuration_are_sent(
    open_packages: ExitStack, tmp_path: Path
) -> None:
    for junk in (".git", ".venv", "runs", "data"):
        (tmp_path / junk).mkdir()
        (tmp_path / junk / "large").write_bytes(bytes(1 << 20))
    sent = pack(open_packages, tmp_path, "seed=7")
    assert names(sent) == {"sphere_ray", CONFIG}
    assert yaml.safe_load((sent.directory / CONFIG).read_text()) == {**DOCUMENT, "seed": 7}
    assert not list(sent.directory.rglob("__pycache__"))
    assert 1 << 20 < sent.size < 4 << 20
    assert (sent.files, sent.elsewhere) == ((), ())


def test_what_is_sent_runs_by_itself(open_packages: ExitStack, tmp_path: Path) -> None:
    sent = pack(open_packages, tmp_path, "problems.train.source=file:/elsewhere.jsonl")
    command = [sys.executable, "-P", "-c", "import sphere_ray; print(sphere_ray.__file__)"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(sent.directory)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(sent.directory / "sphere_ray" / "__init__.py")
    assert sent.elsewhere == ("/elsewhere.jsonl",)


def test_named_files_keep_their_places(open_packages: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}")
    (tmp_path / "data" / "other.jsonl").write_text("{}")
    (tmp_path / "checks.py").write_text("def letter(response, gold): return True")
    sent = pack(
        open_packages,
        tmp_path,
        "problems.train.source=file:data/train.jsonl?question=q",
        "grading.verifier=checks:letter",
    )
    assert sent.files == ("data/train.jsonl", "checks.py")
    assert [file.name for file in (sent.directory / "data").iterdir()] == ["train.jsonl"]
    assert (sent.directory / "checks.py").is_file()


def test_a_verifier_that_is_installed_or_absent_is_not_sent(
    open_packages: ExitStack, tmp_path: Path
) -> None:
    sent = pack(open_packages, tmp_path, "grading.verifier=pytest:skip")
    assert sent.elsewhere == ("module pytest",)
    assert names(sent) == {"sphere_ray", CONFIG}


@pytest.mark.parametrize(
    ("source", "said"), [("file:../x.jsonl", "lies outside"), ("file:x.jsonl", "does not exist")]
)
def test_files_that_cannot_be_sent(
    open_packages: ExitStack, tmp_path: Path, source: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        pack(open_packages, tmp_path, f"problems.train.source={source}")


def test_too_much_is_not_sent(
    open_packages: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MAX_MIB", 2)
    (tmp_path / "x.jsonl").write_bytes(bytes(3 << 20))
    with pytest.raises(ConfigError, match="may send 2"):
        pack(open_packages, tmp_path, "problems.train.source=file:x.jsonl")


def test_a_configuration_that_means_this_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    said = refused("run_dir=runs/x", base=tmp_path)
    assert f"--set run_dir={tmp_path}/runs/x" in said
    assert "ray.address: auto" in refused("ray.address=local", base=tmp_path)
    assert "no models are sent" in refused("engines.policy.path=models", base=tmp_path)
    assert "no models are sent" in refused("engines.policy.path=./there", base=tmp_path)
    tracker = "trackers=[{kind: tensorboard, directory: tb}]"
    assert "trackers.0.directory" in refused(tracker, base=tmp_path)
