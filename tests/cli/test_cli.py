import subprocess
import sys
from types import ModuleType

import pytest

from sphere_ray.errors import EngineError, PlacementError
from sphere_ray.interruption import Interrupted


@pytest.fixture
def command(monkeypatch):
    """Stands where the composition root is; tests set its `run`."""
    module = ModuleType("sphere_ray.commands.run")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.results_in = str
    return module


def raises(error):
    def run(settings, origin):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PlacementError("the run needs 9 GPUs; the cluster has 0"), 2),
        (EngineError("the policy pool is gone"), 1),
    ],
)
def test_an_expected_error_is_one_line_and_its_exit_code(sphere, command, config, error, code):
    command.run = raises(error)
    assert sphere("run", str(config)) == (code, "", f"error: {error}\n")


def test_debug_adds_the_traceback(sphere, command, config):
    command.run = raises(EngineError("the policy pool is gone"))
    code, _, err = sphere("--debug", "run", str(config))
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("error: the policy pool is gone\n")


def test_an_unexpected_error_keeps_its_traceback(sphere, command, config):
    command.run = raises(ZeroDivisionError())
    code, _, err = sphere("run", str(config))
    assert code == 1
    assert err.startswith("Traceback")
    assert "ZeroDivisionError" in err


@pytest.mark.parametrize(
    ("ending", "code"), [(KeyboardInterrupt(), 130), (Interrupted(15), 143), (SystemExit(0), 130)]
)
def test_a_stopped_run_says_how_to_continue(sphere, command, config, ending, code):
    command.run = raises(ending)
    got, _, err = sphere("run", str(config))
    assert got == code
    assert "run the same command again" in err
    assert "Traceback" not in err


def test_overrides_reach_the_run(sphere, command, config):
    seen = []

    def run(*given):
        seen.extend(given)
        raise EngineError("enough")

    command.run = run
    overrides = ("--set", "iterations=3", "--set", "method.pairs.level=step")
    sphere("run", str(config), "--from", "other", *overrides)
    assert (seen[0].iterations, seen[0].method.pairs.level) == (3, "step")
    assert seen[1] == "other"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "absent.yaml"), "absent.yaml"),
        (("export", "absent", "--format", "trl"), "absent"),
        (("export", "absent", "--format", "csv"), "csv"),
        (("evaluate", "model"), "--problems"),
        (("run", "absent.yaml", "--iterations", "3"), "--iterations"),
        (("train",), "train"),
    ],
)
def test_user_mistakes_exit_with_2_and_name_the_culprit(sphere, arguments, told):
    code, _, err = sphere(*arguments)
    assert code == 2
    assert told in err


def test_an_unknown_setting_is_named(sphere, config):
    code, _, err = sphere("run", str(config), "--set", "training.betta=1")
    assert code == 2
    assert err.startswith("error: ")
    assert "training.betta" in err
    assert err.count("\n") == 1


def test_version_and_help(sphere):
    code, out, _ = sphere("--version")
    assert (code, out) == (0, "0.1.0\n")
    code, out, _ = sphere("run", "--help")
    assert code == 0
    assert "--dry-run" in out


def test_asking_for_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from sphere_ray import cli\n"
        "try: cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'vllm', 'transformers', 'pyarrow', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
