"""Rules about the code as a whole that no linter holds."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import sphere_ray
from sphere_ray.config import RunSettings
from sphere_ray.config.loading import load
from sphere_ray.config.proof import ProofSettings

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("sphere_ray/**/*.py"), *ROOT.glob("jobs/**/*.py")])
CONFIGS = sorted(ROOT.glob("jobs/configs/*.yaml"))
HEAVY = {"torch", "ray", "vllm", "deepspeed", "transformers", "pyarrow"}
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_IMPORT_SECONDS = 0.3

# Spelt in pieces, for this file is tracked too.
FOREIGN = re.compile(
    "|".join(["/wo" + "rk/", "/r" + "oot/", "/opt/" + "wheels", "/tmp/" + r"s\b", "file:" + "///"])
    + "|https?://[^ ]*" + "(?:/simple|pypi|artifactory|nexus|jfrog)"
)  # fmt: skip


def tracked_files() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            yield name, path.read_text(encoding="utf-8", errors="replace")


def test_import_is_light() -> None:
    """In a fresh process; the best of three, for the machine may be busy."""
    program = (
        "import json, sys, time; t = time.perf_counter(); import sphere_ray; "
        "print(json.dumps([time.perf_counter() - t, sorted(sys.modules)]))"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True
        )
        elapsed, modules = json.loads(done.stdout)
        seconds.append(elapsed)
        assert not HEAVY & {name.partition(".")[0] for name in modules}
    assert min(seconds) < MAX_IMPORT_SECONDS


def test_public_names_resolve() -> None:
    assert sphere_ray.__all__
    for name in sphere_ray.__all__:
        assert getattr(sphere_ray, name) is not None


def test_no_test_file_is_long_either() -> None:
    lines = {p.name: len(p.read_text("utf-8").splitlines()) for p in ROOT.glob("tests/**/*.py")}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_are_ascii_and_say_what_they_own(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    if path.name != "__init__.py":
        assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path) -> None:
    kind = ProofSettings if "variants" in yaml.safe_load(path.read_text()) else RunSettings
    assert load(kind, path).name == path.stem


def test_there_are_configurations() -> None:
    assert {"laptop", "smoke", "qwen2.5-7b", "qwen2.5-1.5b"} <= {path.stem for path in CONFIGS}


def test_no_tracked_file_names_this_machine_or_a_registry() -> None:
    found = {
        name: match.group()
        for name, text in tracked_files()
        if (match := FOREIGN.search(text)) is not None
    }
    assert not found


def test_no_weights_data_or_locks_are_tracked() -> None:
    unwanted = re.compile(r"\.(safetensors|gguf|bin|pt|parquet|lock|whl)$")
    assert not [name for name, _ in tracked_files() if unwanted.search(name)]


def test_hooks_run_what_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = " ".join(hook["entry"] for hook in hooks)
    for tool in ("ruff check", "ruff format", "mypy", "lint-imports", "codespell"):
        assert tool in entries
        assert re.search(rf"^\t{tool}", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_pins_are_names_and_versions() -> None:
    for path in (ROOT / "constraints").glob("*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                assert re.fullmatch(r"[\w.-]+(==[\w.+!-]+| ; sys_platform == 'never')", line), line


def test_what_is_imported_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {re.split(r"[\[=<>~!; ]", spec)[0] for spec in project["project"]["dependencies"]}
    for name in ("cpu.txt", "gpu.txt"):
        pinned = {
            line.split("==")[0] for line in (ROOT / "constraints" / name).read_text().splitlines()
        }
        assert {name.lower() for name in wanted} <= pinned


@pytest.mark.parametrize("file", sorted((ROOT / "tests" / "benchmarks").glob("[a-z]*.py")))
def test_benchmarks_import_what_exists(file: Path) -> None:
    """Nothing else in `make test` runs them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sphere_ray"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
