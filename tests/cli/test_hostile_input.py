"""What strangers wrote reaches the terminal as one sentence with exit code 2."""

import errno
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from sphere_ray.errors import ProblemSourceError

SECRET = "s3cr3t"


@pytest.fixture
def command(monkeypatch):
    """Stands where the composition root is; tests set its `run`."""
    module: Any = ModuleType("sphere_ray.commands.run")
    module.results_in = str
    monkeypatch.setitem(sys.modules, module.__name__, module)
    step = SimpleNamespace(place="problems")
    plan = SimpleNamespace(step=step, path="run/problems", state="make", reason="not made yet")
    monkeypatch.setattr("sphere_ray.commands.plan.planned_steps", lambda settings, origin: [plan])
    return module


def told(sphere, *arguments):
    code, out, err = sphere(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert len(err) < 5000
    return err


@pytest.mark.parametrize(
    "text",
    [
        "name: " + "[" * 100_000,
        "a0: &a0 {k: v}\n"
        + "\n".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 50)),
        "seed: !!bool nonsense",
        "seed: " + "9" * 4000,
        '"a\\nb\\e[31m": 1',
        "k" * 100_000 + ": 1",
    ],
    ids=["deep", "merges", "tag", "digits", "controls", "long"],
)
def test_a_hostile_configuration(sphere, config, text):
    config.write_text(text)
    assert str(config) in told(sphere, "run", str(config))


def test_a_pipe_for_a_configuration(sphere, tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "pipe" in told(sphere, "run", str(tmp_path / "pipe.yaml"))
    assert "pipe" in told(sphere, "proof", str(tmp_path / "pipe.yaml"))
    assert "device" in told(sphere, "run", "/dev/zero")


@pytest.mark.parametrize("run_dir", ["a\0b", "~nobody-of-this-name/run", "a\x1bb", ""])
def test_a_run_directory_that_can_have_no_such_name(sphere, config, run_dir):
    document = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(document | {"run_dir": run_dir}))
    told(sphere, "run", str(config))
    code, _, err = sphere("run", str(config), "--dry-run")  # after it has shown the settings
    assert code == 2
    assert err.count("\n") == 1


def test_a_deep_override(sphere, config):
    told(sphere, "run", str(config), "--set", ".".join(["a"] * 5000) + "=1")


def test_settings_are_shown_without_secrets(sphere, config, command):
    source = f"file:https://user:{SECRET}@host/p.jsonl?token={SECRET}"
    chosen = ("--set", f"problems.train.source={source}")
    code, out, err = sphere("run", str(config), "--dry-run", *chosen)
    assert code == 0
    assert "file:https://***@host/p.jsonl?token=***" in out
    assert SECRET not in out + err
    assert SECRET not in told(sphere, "run", str(config), *chosen, "--set", "seed=x")
    for debug in ((), ("--debug",)):
        command.run = lambda settings, origin: fail(settings.problems.train.source)
        code, out, err = sphere(*debug, "run", str(config), *chosen)
        assert code == 2
        assert SECRET not in out + err


def test_a_full_disk_is_one_sentence_and_a_failure_of_the_system(sphere, config, command):
    def run(settings, origin):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/run/part.parquet")

    command.run = run
    code, out, err = sphere("run", str(config))
    assert (code, out) == (1, "")
    assert err == (
        "error: /data/run/part.parquet cannot be used: No space left on device; free some space "
        "there, then run the same command again: finished work is kept\n"
    )
    code, _, err = sphere("--debug", "run", str(config))
    assert code == 1
    assert "Traceback" in err


def test_a_mistake_of_ours_is_a_traceback_without_secrets(sphere, config, command):
    def run(settings, origin):
        raise KeyError(f"https://user:{SECRET}@host/p?token={SECRET}")

    command.run = run
    code, out, err = sphere("run", str(config))
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert "KeyError: 'https://***@host/p?token=***" in err
    assert SECRET not in err


def fail(source):
    raise ProblemSourceError(f"{source} cannot be read")
