"""A Ray Train job in an actor of its own, whose workers may start before their work is known.

The driver asks the actor for messages. If it is killed, Ray Train's controller and its workers go
with it; only a job that ends by itself gives back at once what it reserved in the cluster.
"""

import asyncio
import importlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import SphereError, TrainingError
from sphere_ray.training.messages import ReferenceRequest, RewardTrainRequest, TrainRequest

Work = tuple[ReferenceRequest | None, RewardTrainRequest | TrainRequest]

_PATIENCE_S = 60
"""For workers that hear that there is no work, perhaps on their way still."""

# A leaked engine holds the GPUs: Ray Train would wait for them for ever.
_PLACEMENT_ATTEMPTS = 10


class TrainingJob:
    """The driver's handle of a job; a context manager that leaves no worker behind."""

    def __init__(self, name: str, storage_path: str, placement: TrainerPlacement) -> None:
        """Start Ray Train; its workers import what they need and wait.

        The same `name` and `storage_path` find the checkpoints of an earlier job.
        """
        self._name = name
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        environment = {key: value for key, value in os.environ.items() if "RAY_TRAIN_" in key}
        relay = cast(Any, ray).remote(num_cpus=0, scheduling_strategy=here)(_Relay)
        self._actor: Any = relay.remote(name, storage_path, placement, environment)
        self._end = self._actor.run.remote()
        self._given = False

    def run(self, work: Work, on_message: Callable[[Any], None] | None) -> Any:
        """Give the workers their work; returns what the first of them returned.

        Raises:
            SphereError: the one that a worker returned.
            TrainingError: the workers kept failing.
        """
        self._given = True
        try:
            ray.get(self._actor.give.remote(work))
            while (message := ray.get(self._actor.message.remote())) is not None:
                if on_message:
                    on_message(message)
            outcome = ray.get(self._end)
        except RayActorError as error:
            raise TrainingError(f"{self._name} lost its process; run it again") from error
        if isinstance(outcome, SphereError):
            raise outcome
        if outcome is None:
            raise TrainingError(f"{self._name} was stopped before it finished; run it again")
        return outcome

    @property
    def waits(self) -> bool:
        """Whether it waits for work: it got none, and has not failed."""
        return not self._given and not ray.wait([self._end], timeout=0)[0]

    def end(self, *, at_once: bool = False) -> None:
        """End it, whatever it does; one that waits goes by itself, unless it must go `at_once`."""
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
    """The actor: runs Ray Train in a thread, and passes work and messages on."""

    def __init__(
        self,
        name: str,
        storage_path: str,
        placement: TrainerPlacement,
        environment: Mapping[str, str],
    ) -> None:
        os.environ.update(environment)  # Ray Train reads its options where `fit` is called
        self._name, self._storage_path, self._placement = name, storage_path, placement
        self._given = asyncio.Event()
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._work: Work | None = None

    async def run(self) -> Any:
        """Run the job to its end, behind which no message comes."""
        me = ray.get_runtime_context().current_actor
        try:
            return await asyncio.to_thread(self._fit, me)
        finally:
            await self._messages.put(None)

    async def give(self, work: Work | None) -> None:
        """What the workers wait for; None: there is none."""
        self._work = work
        self._given.set()

    async def work(self) -> Work | None:
        """The work, once it is given; workers that are started anew ask again."""
        await self._given.wait()
        return self._work

    async def put(self, message: Any) -> None:
        """From a worker to the driver."""
        await self._messages.put(message)

    async def message(self) -> Any:
        """The next message, or None behind the last."""
        return await self._messages.get()

    def _fit(self, me: ActorHandle[Any]) -> Any:
        torch_trainer = importlib.import_module("ray.train.torch").TorchTrainer
        trainer = torch_trainer(
            partial(_work, self._placement, me),
            scaling_config=_scaling(self._placement),
            run_config=self._run_config(),
        )
        try:
            return trainer.fit().return_value
        except TrainingFailedError as error:
            return TrainingError(_sentence(self._name, error))

    def _run_config(self) -> RunConfig:
        # Ray's type annotations are those of Train v1, which has no such options.
        failures: dict[str, Any] = {
            "max_failures": self._placement.max_failures,
            "controller_failure_limit": _PLACEMENT_ATTEMPTS,
        }
        return RunConfig(
            name=self._name,
            storage_path=self._storage_path,
            failure_config=FailureConfig(**failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        )


def _work(placement: TrainerPlacement, job: ActorHandle[Any]) -> Any:
    # Only here are torch and DeepSpeed imported, so the driver stays free of them, and this is
    # early enough for their environment variables.
    os.environ.update(_environment(placement))
    run = importlib.import_module("sphere_ray.training.host").run
    asked: Any = job.work.remote()  # Ray's annotations know no optional tuple
    work: Work | None = ray.get(asked)
    return run(*work, job) if work else None


def _scaling(placement: TrainerPlacement) -> ScalingConfig:
    resources = {"CPU": placement.cpus_per_worker}
    if placement.use_gpu:
        resources["GPU"] = 1.0
    return ScalingConfig(
        num_workers=placement.workers, use_gpu=placement.use_gpu, resources_per_worker=resources
    )


def _environment(placement: TrainerPlacement) -> dict[str, str]:
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    if not placement.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


def _sentence(name: str, error: TrainingFailedError) -> str:
    causes = getattr(error, "worker_failures", None) or {}
    cause = next(iter(causes.values()), getattr(error, "controller_failure", error))
    reason = str(cause).strip().splitlines() or [type(cause).__name__]
    return f"{name} failed for good: {reason[-1]}; Ray's log has the workers' tracebacks"
