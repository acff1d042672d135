"""`sphere`, with training that takes a time and makes no model: simulated engines read none.

Run as a program. $STEP_S is the time of an optimizer step; steps are noted in $TRAINED, which
outlives the run. The second iteration's training collapses, so its policy is refused.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from sphere_ray import cli, storage
from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import CollapseError, TrainingError
from sphere_ray.runs import session
from sphere_ray.training.messages import ReferenceDone, ReferenceRequest, StepMetrics, TrainResult

STEPS = 6
REFUSED = "iter-001/"


class SimulatedJob:
    """Stands in for `TrainingJob`: takes its place in the cluster, keeps a checkpoint a step."""

    def __init__(self, name: str, storage_path: str, placement: TrainerPlacement) -> None:
        self._checkpoint = f"{storage_path}/checkpoint.json"
        self._over = threading.Event()
        holder = ray.remote(num_cpus=placement.workers * placement.cpus_per_worker)(_Holder)
        self._holder: Any = holder.remote()
        ray.get(self._holder.here.remote())  # as workers do, it waits until there is room

    @property
    def waits(self) -> bool:
        return not self._over.is_set()

    def run(self, request: Any, on_message: Callable[[Any], None]) -> Any:
        if isinstance(request, ReferenceRequest):
            pairs = sum(map(storage.count_rows, request.pairs_paths))
            return ReferenceDone(pairs=pairs, dropped={}, tokens=0, seconds=0.0)
        kept = storage.read_json(self._checkpoint) or {}
        done = kept["step"] if kept.get("fingerprint") == request.fingerprint else 0
        history = [_step(number) for number in range(1, STEPS + 1)]
        for metrics in history[done:]:
            if self._over.wait(float(os.environ["STEP_S"])):
                raise TrainingError("the job was ended")
            with open(os.environ["TRAINED"], "a") as file:
                file.write(f"{request.fingerprint} {metrics.step}\n")
            now = {"fingerprint": request.fingerprint, "step": metrics.step}
            storage.write_json(now, self._checkpoint)
            on_message(metrics)
        if REFUSED in request.output_dir:
            raise CollapseError("it is the one that collapses")
        storage.write_text(request.fingerprint, str(Path(request.output_dir) / "weights.bin"))
        return TrainResult(
            model_dir=request.output_dir,
            steps=STEPS,
            loss_first=1.0,
            loss_last=1 / STEPS,
            update_survival=1.0,
            seconds=1.0,
            history=tuple(history),
            resumed_at=done,
            pairs=1,
            reward_accuracy=1.0,
        )

    def end(self, *, at_once: bool = False) -> None:
        self._over.set()
        ray.kill(self._holder)


class _Holder:
    def here(self) -> None:
        pass


def _step(number: int) -> StepMetrics:
    names = ("grad_norm", "learning_rate", "reward_accuracy", "margin", "chosen_logp")
    names += ("rejected_logp", "chosen_shift", "chosen_length", "rejected_length")
    return StepMetrics(
        step=number,
        steps=STEPS,
        epoch=0,
        loss=1 / number,
        tokens=1,
        computed=1,
        padding=0,
        seconds=1.0,
        **dict.fromkeys(names, 1.0),
    )


if __name__ == "__main__":
    session.TrainingJob = SimulatedJob
    cli.main()
