"""One grader pool per node, as a Ray actor; clear cases are decided where they arise."""

import random
import uuid
from collections.abc import Mapping
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import GraderError
from sphere_ray.grading.pool import GraderPool, decide, exactly_same
from sphere_ray.method.ports import Grade
from sphere_ray.pools.errors import cause_of
from sphere_ray.pools.nodes import living_nodes
from sphere_ray.records import Verdict


class GraderActor:
    """Hosts the worker processes of one node; they exit when this process does."""

    def __init__(self, settings: GradingSettings) -> None:
        """Start nothing yet."""
        self._pool = GraderPool(settings)

    async def self_test(self) -> None:
        """See `GraderPool.self_test`."""
        await self._pool.self_test()

    async def grade(self, response: str, gold: str) -> Grade:
        """See `Grader.grade`."""
        return await self._pool.grade(response, gold)

    async def compare(self, answer: str, target: str) -> Verdict:
        """See `GraderPool.compare`."""
        return await self._pool.compare(answer, target)


class GraderClient:
    """Implements the Grader port in a stage actor; prefers the grader of its own node."""

    def __init__(self, actors: Mapping[str, Any], *, verifier: str | None = None) -> None:
        """`actors` are grader actors by node id. A user's verifier needs the whole response."""
        self._actors = dict(actors)
        self._verifier = verifier

    async def grade(self, response: str, gold: str) -> Grade:
        """See `Grader.grade`."""
        if self._verifier is not None:
            return cast(Grade, await self._ask("grade", response, gold))
        answer, target, verdict = decide(response, gold)
        if verdict is None:
            verdict = cast(Verdict, await self._ask("compare", answer or "", target))
        return Grade(verdict=verdict, answer=answer)

    async def same(self, answer: str, other: str) -> bool:
        """See `Grader.same`."""
        equal = exactly_same(answer, other, self._verifier)
        if equal is None:
            return await self._ask("compare", answer, other) is Verdict.CORRECT
        return equal

    async def _ask(self, method: str, *texts: str) -> object:
        while True:
            node, actor = self._nearest()
            try:
                return await getattr(actor, method).remote(*texts)
            except RayActorError as error:
                self._actors.pop(node, None)  # grading is pure: the grader of another node serves
                if not self._actors:
                    raise GraderError(f"the graders of all nodes are gone: {error}") from error
            except RayTaskError as error:
                raise cause_of(error) from error

    def _nearest(self) -> tuple[str, Any]:
        """The grader of this node, or one of those there are."""
        here = ray.get_runtime_context().get_node_id()
        node = here if here in self._actors else random.choice(list(self._actors))
        return node, self._actors[node]


def start_graders(settings: GradingSettings) -> GraderClient:
    """Start a grader on every node and let each grade known answers.

    Raises:
        ConfigError: `grading.verifier` cannot be used.
        GraderError: a known answer came out otherwise, or workers cannot be started.
    """
    actors = {node.node_id: _launch(settings, node.node_id) for node in living_nodes()}
    try:
        ray.get([actor.self_test.remote() for actor in actors.values()])
    except RayTaskError as error:
        raise cause_of(error) from error
    return GraderClient(actors, verifier=settings.verifier)


def _launch(settings: GradingSettings, node: str) -> Any:
    options = {
        "name": f"grader-{node[:8]}-{uuid.uuid4().hex[:6]}",
        "num_cpus": 0,
        "max_restarts": 3,
        "max_task_retries": 3,  # grading is pure, so a lost call may simply be repeated
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }
    return ray.remote(GraderActor).options(**options).remote(settings)
