"""The driver's side of the pools: start, share, release, and check that memory came back."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from sphere_ray.compat import ray as compat
from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import PoolSettings
from sphere_ray.config.placement import engines_share_cores
from sphere_ray.config.run import RunSettings
from sphere_ray.engines.engine import EngineStats, differ_in_weights_alone, engine_environment
from sphere_ray.errors import ReleaseError
from sphere_ray.planning.placement import Placed, check_placement
from sphere_ray.pools.actor import EngineActor, Hosting, Ledger, ReplicaStatus, replica_name
from sphere_ray.pools.client import PoolClient, Whereabouts
from sphere_ray.pools.errors import cause_of
from sphere_ray.pools.nodes import NodeState, cluster_nodes, on_this_node, states_of_nodes
from sphere_ray.pools.starting import Member, await_engines, got
from sphere_ray.pools.usage import load, use_of
from sphere_ray.pools.watch import Watch, free_gpus
from sphere_ray.records import PoolUse

logger = logging.getLogger(__name__)

GPU_TOLERANCE_MIB = 1024
"""What a GPU may hold above its baseline and still count as released (contexts of others)."""
ADMITTED = 3
"""Sequences a client keeps at a replica, as a multiple of max_num_seqs: of n samples of a prompt
only one can start before the prompt is computed."""
WORK_CONCURRENCY = 10_000
POLL_S = 0.5
LOOK_S = 5.0
"""How often pools are looked at while they are metered."""
RELEASE_TIMEOUT_S = 120.0


class Pools:
    """All engine pools of a run. The same spec is the same pool, whoever asks for it."""

    def __init__(
        self,
        release_timeout_s: float = RELEASE_TIMEOUT_S,
        *,
        run: str = "run",
        hosting: Hosting | None = None,
        homes: Sequence[Placed] = (),
        watch: Watch | None = None,
        beside: "Pools | None" = None,
    ) -> None:
        """Take the memory baseline; no pool runs yet.

        The dashboard shows actors by the name of the `run`. Engines derive their seeds from that of
        `hosting`. `homes` are planned places: an engine of a place's shape starts on its node if
        that has room. A `watch` tells people which engines are missing. The pools of `beside` run
        in another partition of the same cluster, and took the baseline before.
        """
        compat.found_doubts()
        self._say = watch.say if watch else logger.warning
        if watch:
            watch.causes.append(self.missing)
        self._release_timeout_s = release_timeout_s
        self._run = run
        source = ray.get_runtime_context().get_node_id()
        self._given = {"hosting": hosting or Hosting(), "source": source}
        self._members: dict[EngineSpec, list[Member]] = {}
        self._homes = list(homes)
        self._baseline: dict[str, tuple[int, ...]] = (
            beside._baseline
            if beside is not None
            else {node.node_id: node.gpu_used_mib for node in states_of_nodes({})}
        )
        self._company: list[Pools] = [] if beside is None else beside._company
        self._company.append(self)
        self._ledger_name = f"engines-{uuid.uuid4().hex}"
        options = {"num_cpus": 0, "scheduling_strategy": on_this_node()}
        ledger = ray.remote(Ledger).options(name=self._ledger_name, **options)
        self._ledger: Any = ledger.remote()  # it lives as long as this reference

    @classmethod
    def of(
        cls,
        settings: RunSettings,
        watch: Watch | None = None,
        *,
        beside: "Pools | None" = None,
        evaluates: bool = False,
    ) -> "Pools":
        """Make the pools of a run, or of one partition of its cluster.

        The partition that `evaluates` beside rollouts has the places of evaluations.
        """
        placement = check_placement(settings, cluster_nodes())
        return cls(
            run=settings.name,
            hosting=Hosting(
                seed=settings.seed,
                share_cores=engines_share_cores(settings),
                vllm_metrics=settings.ray.vllm_metrics,
            ),
            homes=placement.evaluation if evaluates else placement.engines,
            watch=watch,
            beside=beside,
        )

    def ensure(self, specs: Sequence[EngineSpec]) -> None:
        """Run exactly the pools of `specs`: keep those that run, stop others, start the missing.

        A pool that only lacks the right weights reloads: an engine start takes half a minute.

        Raises:
            EngineError: an engine does not start.
            UserError: a model cannot be served (missing weights, wrong head).
        """
        for spec in specs:
            idle = [known for known in self._members if known not in specs]
            old = next((known for known in idle if differ_in_weights_alone(known, spec)), None)
            if old is not None and spec not in self._members:
                self._reload(old, spec)
        unwanted = [spec for spec in self._members if spec not in specs]
        if unwanted:
            self._stop(unwanted)
        missing = [spec for spec in dict.fromkeys(specs) if spec not in self._members]
        try:
            self._start(missing)
        except BaseException:
            self._stop([spec for spec in missing if spec in self._members])
            raise
        self._grow()

    def client(self, spec: EngineSpec) -> PoolClient:
        """Return a client of the running pool of `spec`."""
        members = self._members[spec]
        statuses = _statuses(members)
        serving = {name for name, status in statuses.items() if status.serves}
        return PoolClient(
            [member.actor for member in members],
            ADMITTED * spec.pool.max_num_seqs,
            spec.name,
            whereabouts=Whereabouts(ledger=self._ledger, names=[member.name for member in members]),
            absent=[i for i, member in enumerate(members) if member.name not in serving],
        )

    def missing(self) -> list[str]:
        """Clauses that say which pools have fewer engines than they begin with, and why."""
        found = []
        for spec, members in list(self._members.items()):
            statuses = _statuses(members)
            serving = sum(status.serves for status in statuses.values())
            if serving < spec.pool.min_replicas:
                placed = len(statuses) - serving
                found.append(shortage(spec.name, spec.pool, serving, placed, free_gpus()))
        return found

    def stats(self, spec: EngineSpec) -> list[EngineStats]:
        """Return the counters of each replica of a running pool that answers."""
        return [status.stats for status in self.statuses(spec)]

    @contextmanager
    def metered(
        self, specs: Sequence[EngineSpec], show: Callable[[dict[str, float]], object]
    ) -> Iterator[list[PoolUse]]:
        """Meter running pools; the yielded list is filled when the block ends well.

        Meanwhile `show` gets the pools' `load` every `LOOK_S` seconds, as `pool/NAME/FIELD`.
        """
        found: list[PoolUse] = []
        before, began = {spec: self.stats(spec) for spec in specs}, time.monotonic()
        over = threading.Event()
        looks = threading.Thread(target=self._look, args=(before, show, over), daemon=True)
        looks.start()
        try:
            yield found
        finally:
            over.set()
            looks.join()
        seconds = time.monotonic() - began
        for spec, old in before.items():
            found.append(use_of(spec.name, old, self.stats(spec), seconds))

    def _look(
        self,
        before: Mapping[EngineSpec, Sequence[EngineStats]],
        show: Callable[[dict[str, float]], object],
        over: threading.Event,
    ) -> None:
        last, began = before, time.monotonic()
        while not over.wait(LOOK_S):
            now, seconds = {spec: self.stats(spec) for spec in last}, time.monotonic() - began
            began += seconds
            for spec, stats in now.items():
                found = load(last[spec], stats, seconds)
                show({f"pool/{spec.name}/{name}": value for name, value in found.items()})
            last = now

    def statuses(self, spec: EngineSpec) -> list[ReplicaStatus]:
        """Return the status of each replica of a running pool that answers."""
        members = self._members.get(spec, ())  # none if another thread killed them
        return list(_statuses(members).values())

    def release(self, *, keep_on_cpu: bool = False) -> None:
        """Stop the pools and wait until their processes are gone and their GPU memory is free.

        With `keep_on_cpu` only those that hold GPUs.

        Raises:
            ReleaseError: memory is still held after the timeout; names the processes.
        """
        self._stop([spec for spec in self._members if spec.pool.gpus or not keep_on_cpu])

    def kill(self) -> None:
        """Kill all engines, whatever another thread asks them or waits for."""
        for members in list(self._members.values()):
            for member in members:
                self._ledger.forget.remote(member.name)  # so that no node counts as lost
                ray.kill(member.actor, no_restart=True)
        self._members.clear()

    def _reload(self, old: EngineSpec, new: EngineSpec) -> None:
        members = self._members[old]
        try:
            ray.get([self._ledger.assign.remote(member.name, new) for member in members])
            ray.get([member.actor.reload.remote(new) for member in _placed(members)])
        except RayError as error:
            logger.warning("engines of %s start anew instead: %s", new.name, cause_of(error))
            self._stop([old])
        else:
            self._members[new] = self._members.pop(old)

    def _start(self, specs: Sequence[EngineSpec]) -> None:
        """Start the engines that pools begin with, and wait for them."""
        calls: dict[Any, Member] = {}
        # The largest first, while there still are nodes with so many free GPUs.
        for spec in sorted(specs, key=lambda spec: -spec.pool.gpus * spec.pool.tensor_parallel):
            self._members[spec] = []
            for _ in range(spec.pool.min_replicas):
                self._launch(spec)
            self._share_out_cores(spec)
            for member in self._members[spec]:
                calls[member.actor.ready.remote()] = member
                if 0 < spec.pool.gpus < 1:
                    # Engines that share a GPU disturb each other's memory profile while starting.
                    self._await(calls)
        self._await(calls)

    def _await(self, calls: dict[Any, Member]) -> None:
        def unplaced() -> set[str]:
            asked = list(calls.values())
            return {member.name for member in asked} - {member.name for member in _placed(asked)}

        await_engines(calls, self._ledger, unplaced, self._give_way, self._say)

    def _grow(self) -> None:
        """Ask for the engines that pools may have; Ray starts them where and when there is room."""
        for spec, members in self._members.items():
            for _ in range(len(members), spec.pool.max_replicas):
                self._launch(spec).actor.ready.remote()

    def _give_way(self) -> bool:
        """Stop what pools have beyond their least; False if there is nothing."""
        surplus: list[Member] = []
        for spec, members in self._members.items():
            surplus += members[spec.pool.min_replicas :]
            del members[spec.pool.min_replicas :]
        self._end(surplus)
        return bool(surplus)

    def _launch(self, spec: EngineSpec) -> Member:
        hosting = cast(Any, ray).remote(concurrency_groups={"control": 8})(EngineActor)
        members = self._members[spec]
        name = replica_name(self._run, spec.name, len(members))
        shape = (round(spec.pool.gpus, 4), spec.pool.tensor_parallel)
        home = next((h for h in self._homes if (h.share, h.ranks) == shape), None)
        if home is not None:
            self._homes.remove(home)
        actor = hosting.options(
            name=name,
            num_cpus=0,
            num_gpus=spec.pool.gpus * spec.pool.tensor_parallel,
            scheduling_strategy=compat.preferring(home.node.node_id) if home else "SPREAD",
            max_restarts=-1,  # the ledger keeps the budget
            max_task_retries=0,
            max_concurrency=WORK_CONCURRENCY,
            runtime_env={"env_vars": engine_environment(spec)},
        )
        host = actor.remote(spec, name=name, ledger=self._ledger_name, **self._given)
        members.append(Member(actor=host, name=name, pool=spec.name, home=home))
        return members[-1]

    def _share_out_cores(self, spec: EngineSpec) -> None:
        """Tell the ledger where the engines of a pool on CPUs are, before they start."""
        if spec.pool.gpus:
            return
        members = self._members[spec]
        statuses = got([member.actor.status.remote() for member in members])
        ray.get(
            [
                self._ledger.place.remote(member.name, status.node_id)
                for member, status in zip(members, statuses, strict=True)
            ]
        )

    def _stop(self, specs: Sequence[EngineSpec]) -> None:
        self._end([member for spec in specs for member in self._members.pop(spec)])

    def _end(self, ending: Sequence[Member]) -> None:
        pids: dict[str, list[int]] = {}
        for status in _statuses(ending).values():
            pids.setdefault(status.node_id, []).extend([status.pid, *status.stats.pids])
        closing = [member.actor.close.remote() for member in _placed(ending)]
        ray.wait(closing, num_returns=len(closing), timeout=30) if closing else None
        for member in ending:
            ray.kill(member.actor, no_restart=True)
            self._ledger.forget.remote(member.name)
            self._homes += [member.home] if member.home else []
        self._wait_for_memory(pids)

    def _wait_for_memory(self, pids: dict[str, list[int]]) -> None:
        deadline = time.monotonic() + self._release_timeout_s
        while True:
            held = [text for state in states_of_nodes(pids) if (text := self._held(state))]
            if not held:
                return
            if time.monotonic() > deadline:
                raise ReleaseError(
                    f"engines still hold memory {self._release_timeout_s:.0f} s after they were "
                    f"stopped: {'; '.join(held)}; end these processes, then run the same command"
                )
            time.sleep(POLL_S)

    def _held(self, state: NodeState) -> str:
        # A node that joined later may hold what others run there.
        baseline = self._baseline.get(state.node_id, state.gpu_used_mib)
        grown = [
            f"GPU {index} holds {used} MiB ({before} before)"
            for index, (used, before) in enumerate(zip(state.gpu_used_mib, baseline, strict=False))
            if used > before + GPU_TOLERANCE_MIB and not any(p._members for p in self._company)
        ]
        alive = [f"process {pid}" for pid in state.alive]
        found = alive + grown
        return f"node {state.node_id[:8]}: {', '.join(found)}" if found else ""


def _placed(members: Sequence[Member]) -> list[Member]:
    """The replicas that have a process; calls of others would wait until they get one."""
    alive = compat.actors("ALIVE")
    if alive is None:
        return list(members)
    names = {actor.name for actor in alive}
    return [member for member in members if member.name in names]


def _statuses(members: Sequence[Member]) -> dict[str, ReplicaStatus]:
    """The status of each replica that answers, by its name."""
    asked = {member.actor.status.remote(): member.name for member in _placed(members)}
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=5) if asked else ([], [])
    found = {}
    for reference in ready:
        try:
            found[asked[reference]] = ray.get(reference)
        except (RayActorError, RayTaskError):
            logger.info("%s does not answer", asked[reference])
    return found


def shortage(name: str, pool: PoolSettings, serving: int, starting: int, free: float) -> str:
    """Say that a pool has too few engines: `serving` work, `starting` load, others find no room."""
    wanted, each = pool.min_replicas, pool.gpus * pool.tensor_parallel
    parts = [f"{serving} of {wanted} engines of {name} serve"]
    if starting:
        parts.append(f"{starting} start")
    if left := wanted - serving - starting:
        parts.append(f"{left} not placed ({each:g} GPUs each, {free:g} are free)")
    return ", ".join(parts)
