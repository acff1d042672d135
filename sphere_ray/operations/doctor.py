"""Whether this machine, and with a cluster each of its nodes, can run what is asked.

Every check gives a `Finding`, whatever it meets; none raises, and none changes anything.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from huggingface_hub import try_to_load_from_cache

from sphere_ray.config import RunSettings
from sphere_ray.config.models import ModelSettings
from sphere_ray.errors import ModelError
from sphere_ray.machine import gpus
from sphere_ray.models.source import MADE, check_directory
from sphere_ray.operations.findings import Finding, State, disk, fitting_versions, shared_memory
from sphere_ray.operations.nodes import examine_nodes
from sphere_ray.operations.package import named_paths

_ENGINE_S = 300
_HUB_S = 5.0
_PORTS = {6379: "--port", 8265: "--dashboard-port"}


def examine(settings: RunSettings | None, *, cluster: bool, engine: bool) -> Iterator[Finding]:
    """Make all checks, the quick ones first; `settings` add what they name."""
    yield fitting_versions()
    yield shared_memory()
    yield disk(Path(settings.run_dir if settings and "://" not in settings.run_dir else "."))
    yield hub(settings)
    if settings is not None:
        yield from named_files(settings)
    if cluster:
        yield from examine_nodes(settings)
    else:
        yield from ports()
    yield from private_names()
    if engine:
        yield engine_start()


def private_names() -> Iterator[Finding]:
    """Whether what we lean on inside Ray, vLLM and DeepSpeed is there; see `sphere_ray.compat`."""
    # Without a GPU both say when they are imported that they found none; vLLM before it reads the
    # level that its variable sets.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(logging.ERROR)
    if not gpus():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name, doubts in (("ray", _of_ray), ("deepspeed", _of_deepspeed), ("vllm", _of_vllm)):
        check = f"inside {name}"
        try:
            if not (found := doubts()):
                yield Finding(check=check, text="as tested")
                continue
            state = State.WARNING
        except (ImportError, OSError) as error:
            found, state = [f"it cannot be loaded: {error}"], State.FAILURE
        text = f"{'; '.join(found)}; install the pins in constraints/"
        yield Finding(check=check, state=state, text=text)


def _of_ray() -> list[str]:
    from sphere_ray.compat import ray, ray_train

    return [*ray.found_doubts(), *ray_train.faults()]


def _of_deepspeed() -> list[str]:
    from sphere_ray.compat.deepspeed import found_doubts

    return found_doubts()


def _of_vllm() -> list[str]:
    from sphere_ray.compat.vllm import Use, is_safe

    return [f"not as tested, so {use}" for use in Use if not is_safe(use)]


def ports() -> Iterator[Finding]:
    """Whether `ray start --head` finds its ports free; a cluster that runs here has them."""
    for port, option in _PORTS.items():
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                yield Finding(check="ports", text=f"{port} is free")
                continue
        text = f"{port} is taken, by a cluster or another program; ray start --head {option}=N"
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
        engines = settings.engines
        named = (engines.policy, engines.small, getattr(engines.scorer, "model", None))
        yield from (model(each) for each in named if isinstance(each, ModelSettings))
    for name, path in named_paths(settings).items():
        if not Path(path).expanduser().exists():
            text = f"{name}: {path} is not here; correct the path or the mount"
            yield Finding(check="file", state=State.FAILURE, text=text)


def model(settings: ModelSettings) -> Finding:
    """Whether a model is here; nothing is downloaded or made."""
    path = settings.path
    if path in MADE:
        return Finding(check="model", text=f"{path} is made at its first use")
    if path.startswith((".", "/", "~")) or Path(path).is_dir():
        try:
            check_directory(Path(path).expanduser())
        except ModelError as error:
            return Finding(check="model", state=State.FAILURE, text=str(error))
        return Finding(check="model", text=f"{path} is whole")
    if isinstance(try_to_load_from_cache(path, "config.json", revision=settings.revision), str):
        return Finding(check="model", text=f"{path} is in the hub's cache")
    text = f"{path} is not in the hub's cache; the first run downloads it, into HF_HOME"
    return Finding(check="model", state=State.WARNING, text=text)


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
