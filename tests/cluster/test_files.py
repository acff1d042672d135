"""Images install what the checkout installs, scripts are sound, texts name what exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sphere_ray.config import load_config
from tests.cluster.files import CLUSTER, PLACEHOLDERS, ROOT, load, texts
from tests.cluster.test_manifests import GRACE_S

IMAGES = {name: (CLUSTER / "docker" / f"Dockerfile.{name}").read_text() for name in ("cpu", "gpu")}
SETUP = (ROOT / ".ci" / "setup").read_text()
READMES = sorted(str(path.relative_to(ROOT)) for path in CLUSTER.rglob("README.md"))

images = pytest.mark.parametrize("name", IMAGES)


def faults(text: str, *command: str) -> str:
    """What a linter that is installed beside Python says of a text; empty if it is content."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""


def one_line(text: str) -> str:
    return " ".join(text.replace("\\\n", " ").split())


@images
def test_images_copy_what_exists(name: str) -> None:
    copied = [line.split()[1:-1] for line in IMAGES[name].splitlines() if line.startswith("COPY ")]
    words = [word for line in copied for word in line]
    assert {"constraints", "pyproject.toml", "sphere_ray", "jobs"} <= set(words)
    assert all((ROOT / word).exists() for word in words)


@images
def test_images_install_what_the_checkout_installs(name: str) -> None:
    text = one_line(IMAGES[name])
    extras = set(re.findall(r"--extra ([\w-]+)", text))
    others = set(re.search(r'^extras="([\w,-]+)"', SETUP, re.M)[1].split(",")) - {"cpu"}
    assert extras == {name, *others}
    assert "-r constraints/setup.txt" in text
    assert f"-c constraints/{name}.txt" in text
    assert all((ROOT / path).is_file() for path in re.findall(r"constraints/[\w.]+", text))
    resolves = one_line(SETUP)  # versions hold together only with the options they were found with
    for option in ("--override constraints/overrides.txt", "--torch-backend cpu"):
        assert option in resolves
        assert (option in text) == (name == "cpu")


def test_slurm_nodes_install_what_the_image_has() -> None:
    readme = (CLUSTER / "slurm" / "README.md").read_text()
    extras = re.search(r'-c constraints/gpu\.txt -e "\.\[([\w,-]+)\]"', readme)
    assert set(extras[1].split(",")) == set(re.findall(r"--extra ([\w-]+)", IMAGES["gpu"]))


@images
def test_images_are_well_made(name: str) -> None:
    # DL3008 wants versions of apt packages, but Debian keeps only the newest of each.
    options = ("--info=DL3008", "--failure-threshold=warning", "-")
    assert faults(IMAGES[name], "hadolint", *options) == ""


SCRIPTS = {
    **{name: text for name, text in texts().items() if text.startswith("#!")},
    **{f".ci/{name}": (ROOT / ".ci" / name).read_text() for name in ("run", "setup")},
    "task.yaml": load("skypilot/task.yaml")["run"],
    **{
        f"{provider}-{part}": "\n".join(load(f"{provider}/cluster.yaml")[part])
        for provider in ("aws", "gcp")
        for part in load(f"{provider}/cluster.yaml")
        if part.endswith("_commands")
    },
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_sound(name: str) -> None:
    assert faults(SCRIPTS[name], "shellcheck", "--shell=bash", "-") == ""


def test_slurm_tells_the_script_in_time_and_may_queue_it_again() -> None:
    options = dict(
        re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", (CLUSTER / "slurm/run.sbatch").read_text(), re.M)
    )
    to_the_script, signal = re.fullmatch(r"(B:)USR1@(\d+)", options["signal"]).groups()
    assert to_the_script, "a signal to all processes would end Ray under the run"
    assert int(signal) > GRACE_S
    assert {"requeue", "open-mode", "nodes"} <= options.keys()


@pytest.mark.parametrize("name", READMES)
def test_readmes_fit_on_a_screen(name: str) -> None:
    assert len(texts()[name].splitlines()) <= 40


def test_entry_points_and_files_named_exist() -> None:
    for name, text in texts().items():
        for module in re.findall(r"python -m ((?:jobs|tests)[\w.]+)", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{name}: {module}"
        for path in re.findall(r"\b(?:jobs/configs|cluster/\w+|tests)/[\w.-]*[\w-]", text):
            assert (ROOT / path).exists(), f"{name}: {path}"
        for path in re.findall(r"\]\(([\w./-]+)\)", text):
            assert (ROOT / name).parent.joinpath(path).exists(), f"{name}: {path}"


def test_overrides_in_commands_are_known_settings() -> None:
    found = [
        (ROOT / config, override)
        for text in texts().values()
        for config, rest in re.findall(r"(jobs/configs/\S+\.yaml)((?:\s+--\w+ \S+)+)", text)
        for override in re.findall(r"--set (\S+=[^\s\"]+)", rest)
    ]
    assert len(found) >= 5
    for config, override in found:
        load_config(config, [override])


@pytest.mark.parametrize("directory", ["kuberay", "aws", "gcp", "skypilot"])
def test_placeholders_are_explained(directory: str) -> None:
    readme = (CLUSTER / directory / "README.md").read_text()
    used = {
        word
        for path in (CLUSTER / directory).glob("*.yaml")
        for word in re.findall(rf"\b(?:{PLACEHOLDERS})\b", path.read_text())
    }
    assert used
    assert all(f"`{word}" in readme for word in used)
