"""Checkpoints of a training loop: the model's state and the metrics of every step so far."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from sphere_ray.training.deepspeed import ShardedPolicy
from sphere_ray.training.workers import Host

Metrics = TypeVar("Metrics")


def restore(policy: ShardedPolicy, host: Host, kind: type[Metrics]) -> list[Metrics]:
    """Take over the last checkpoint, if there is one; the steps made until then."""
    with host.latest_checkpoint() as directory:
        if directory is None:
            return []
        state = policy.load(directory)
    return [kind(**step) for step in state["history"]]


def keep(policy: ShardedPolicy, history: Sequence[Any], host: Host) -> None:
    """Save a checkpoint after the steps of `history` (dataclasses); all workers call it."""
    with tempfile.TemporaryDirectory() as directory:
        policy.save(Path(directory), {"history": [asdict(step) for step in history]})
        host.save_checkpoint(Path(directory), len(history))
