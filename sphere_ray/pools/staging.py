"""Models on nodes that do not see the driver's files: fetched once per node, by fingerprint."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import ray
from filelock import FileLock
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sphere_ray.errors import ModelError
from sphere_ray.models.source import content_files, model_fingerprint, models_dir
from sphere_ray.pools.errors import cause_of

CHUNK_BYTES = 64 << 20
IN_FLIGHT = 4
"""Chunks of a file that wait in the object store to be written."""


def model_here(path: str, source: str) -> str:
    """Return a directory of this node that holds the model in `path` of the node `source`.

    That is `path` itself where this node sees it, or nobody does. Else the model is fetched, once
    per node.

    Raises:
        ModelError: what arrived is not what was sent.
    """
    if not path or os.path.isdir(path):
        return path
    return str(fetched(path, source, models_dir() / "staged") or path)


def fetched(path: str, source: str, cache: Path) -> Path | None:
    """Return the directory below `cache` with the model in `path` of the node `source`, if any.

    It is named by the model's fingerprint and appears whole. Engines that start together wait for
    the first of them.

    Raises:
        ModelError: what arrived is not what was sent.
    """
    there = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(source, False)}
    try:
        found = ray.get(cast(Any, ray.remote(_contents)).options(**there).remote(path))
    except RayTaskError as error:
        raise cause_of(error) from error
    if found is None:
        return None
    fingerprint: str = found[0]
    names: list[str] = found[1]
    target = cache / fingerprint
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        building = Path(tempfile.mkdtemp(prefix=f".{fingerprint}-", dir=cache))
        try:
            chunks = cast(Any, ray.remote(_chunks)).options(
                num_returns="streaming", _generator_backpressure_num_objects=IN_FLIGHT, **there
            )
            for name in names:
                with (building / name).open("wb") as file:
                    for chunk in chunks.remote(f"{path}/{name}"):
                        file.write(ray.get(chunk))
            if model_fingerprint(str(building)) != fingerprint:
                raise ModelError(
                    f"model {path} changed while it was copied to this node; run the same command "
                    "again"
                )
            building.chmod(0o755)
            building.rename(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def _contents(path: str) -> tuple[str, list[str]] | None:
    if not os.path.isdir(path):
        return None
    return model_fingerprint(path), [file.name for file in content_files(Path(path))]


def _chunks(file: str) -> Iterator[bytes]:
    with open(file, "rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            yield chunk
