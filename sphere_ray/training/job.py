"""A group of Ray Train workers that takes requests one after the other.

An actor on the driver's node runs Ray Train and passes requests, progress and outcomes on. If the
driver is killed, Ray ends that actor, and with it Ray Train's controller and its workers.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sphere_ray.compat import ray_train
from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import SphereError, TrainingError
from sphere_ray.storage import disk_trouble
from sphere_ray.training.messages import Request

_PATIENCE_S = 60
"""How long to wait for idle workers (some may still be starting) to exit."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The first worker's answer to a request."""

    value: Any


class TrainingJob:
    """The driver's handle of a job; a context manager that leaves no worker behind."""

    def __init__(self, name: str, storage_path: str, placement: TrainerPlacement) -> None:
        """Start Ray Train; its workers import torch and DeepSpeed, and wait for a request.

        `storage_path` is an absolute path on storage that all nodes share, or a URI. A new job
        with the name and the storage path of an earlier one continues a `TrainRequest` or a
        `RewardTrainRequest` at its last checkpoint, if that was made for the same request.

        Raises:
            TrainingError: this version of Ray Train cannot be used.
        """
        if found := ray_train.faults():
            raise TrainingError(
                f"training needs the second version of Ray Train ({'; '.join(found)}): install "
                f"ray[train]=={ray_train.TESTED} and do not set RAY_TRAIN_V2_ENABLED"
            )
        self._name = name
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        environment = {key: value for key, value in os.environ.items() if "RAY_TRAIN_" in key}
        relay = cast(Any, ray).remote(num_cpus=0, scheduling_strategy=here)(_Relay)
        shown = relay.options(name=f"{name}-{os.urandom(3).hex()}")
        self._actor: Any = shown.remote(name, storage_path, placement, environment)
        self._end = self._actor.run.remote()
        self._busy = False

    def run(self, request: Request, on_message: Callable[[Any], None] | None = None) -> Any:
        """Let the workers answer a request; may be called again with another one.

        Returns a `ReferenceDone`, `TrainResult` or `RewardTrainResult`. `on_message` gets the
        `ReferenceProgress` or the metrics of each optimizer step, and gets them again for what is
        repeated after a worker failed.

        Raises:
            SphereError: the one that a worker returned.
            TrainingError: the workers kept failing, or the job was ended.
        """
        self._busy = True
        try:
            ray.get(self._actor.give.remote(request))
            while not isinstance(message := ray.get(self._actor.message.remote()), _Outcome):
                if message is None:
                    raise ray.get(self._end) or TrainingError(
                        f"{self._name} was stopped before it finished; run it again"
                    )
                if on_message:
                    on_message(message)
        except RayActorError as error:
            raise TrainingError(f"{self._name} lost its process; run it again") from error
        self._busy = False
        if isinstance(message.value, SphereError):
            raise message.value
        return message.value

    @property
    def waits(self) -> bool:
        """Whether the job waits for a request: it works on none, and it has not ended."""
        return not self._busy and not ray.wait([self._end], timeout=0)[0]

    def end(self, *, at_once: bool = False) -> None:
        """End the job, whatever it does; workers that wait leave by themselves, if there is time.

        Only workers that leave by themselves give back at once what they reserved in the cluster.
        """
        if self.waits and not at_once:
            self._actor.give.remote(None)
            ray.wait([self._end], timeout=_PATIENCE_S)
        ray.kill(self._actor)

    def __enter__(self) -> "TrainingJob":
        """Return the job itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the job; a driver that was interrupted does not wait for it."""
        self.end(at_once=kind is not None and not issubclass(kind, Exception))


class _Relay:
    """The actor: runs Ray Train in a thread, and passes requests and messages on."""

    def __init__(
        self,
        name: str,
        storage_path: str,
        placement: TrainerPlacement,
        environment: Mapping[str, str],
    ) -> None:
        os.environ.update(environment)  # Ray Train reads its options where `fit` is called
        self._name, self._storage_path, self._placement = name, storage_path, placement
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._request: Request | None = None
        self._given = self._finished = 0
        self._over = False

    async def run(self) -> SphereError | None:
        me = ray.get_runtime_context().current_actor
        try:
            return await asyncio.to_thread(self._fit, me)
        finally:
            self._over = True
            await self._messages.put(None)

    async def give(self, request: Request | None) -> None:
        # A request of None tells the workers to leave.
        async with self._changed:
            self._request, self._given = request, self._given + 1
            self._changed.notify_all()

    async def take(self, last: int) -> tuple[int, Request | None]:
        # `last` is the number of the request that this worker answered last. A worker that was
        # started anew has answered none (0) and gets the unfinished request again.
        async with self._changed:
            await self._changed.wait_for(lambda: self._given > max(last, self._finished))
            return self._given, self._request

    async def finish(self, number: int, value: Any) -> None:
        self._finished = number
        await self._messages.put(_Outcome(value))

    async def put(self, message: Any) -> None:
        await self._messages.put(message)

    async def message(self) -> Any:
        # There is none (None) behind the end of the job.
        return None if self._over and self._messages.empty() else await self._messages.get()

    def _fit(self, me: ActorHandle[Any]) -> SphereError | None:
        from ray.train.torch import TorchTrainer

        placement = self._placement
        trainer = TorchTrainer(
            partial(_work, placement, me),
            scaling_config=ScalingConfig(
                num_workers=placement.workers,
                use_gpu=placement.use_gpu,
                resources_per_worker={
                    "CPU": placement.cpus_per_worker,
                    **({"GPU": 1.0} if placement.use_gpu else {}),
                },
            ),
            run_config=RunConfig(
                # Ray reads no checkpoint that another version of Ray reported.
                name=f"{self._name}-ray-{ray.__version__}",
                storage_path=self._storage_path,
                failure_config=ray_train.failure_config(placement.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        )
        try:
            trainer.fit()
        except ray_train.TrainingFailedError as error:
            reason = ray_train.reason(error)
            return disk_trouble(ray_train.cause_of(error)) or TrainingError(
                f"{self._name} failed for good: {reason}; Ray's log has the workers' tracebacks"
            )
        return None


def _work(placement: TrainerPlacement, job: ActorHandle[Any]) -> None:
    # Torch and DeepSpeed are imported here and not by the driver, after their environment is set.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not placement.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    from sphere_ray.training.host import serve

    serve(job)
