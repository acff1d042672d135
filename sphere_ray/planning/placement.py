"""Which node takes which engine and which training worker; what fits nowhere is refused."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sphere_ray.config.engines import EngineSettings
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.placement import (
    NodeResources,
    evaluated,
    has_room_beside,
    needed_resources,
)
from sphere_ray.config.run import RunSettings
from sphere_ray.config.scorers import ServedRewardSettings
from sphere_ray.errors import ConfigError, ModelError, PlacementError
from sphere_ray.planning.architectures import Architecture, architecture_of
from sphere_ray.planning.hardware import GB
from sphere_ray.planning.memory import (
    GPU_SHARE,
    EngineMemory,
    ForwardTokens,
    engine_memory,
    training_memory,
)
from sphere_ray.planning.packing import WHOLE, Bin, Demand, pack

Shapes = Mapping[str, Architecture]
"""The architecture behind each pool, by the pool's name; a pool whose model is unknown lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An engine, and the node that takes all of its ranks."""

    pool: str
    replica: int
    share: float
    ranks: int
    node: NodeResources


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Every engine that has GPUs with its node, and how many training workers each node may take.

    Ray packs the workers on as few nodes as it can, and chooses which. `beside` says that they
    also fit while the engines run. Where the schedule is overlapped, `evaluation` are the engines
    that run beside the `engines` of rollouts, in turn with training.
    """

    engines: tuple[Placed, ...]
    evaluation: tuple[Placed, ...]
    workers: tuple[tuple[NodeResources, int], ...]
    beside: bool


def models_of(engines: EngineSettings) -> dict[str, ModelSettings]:
    """The model behind each pool, by the names of `EngineSettings.pools`."""
    if engines.backend == "simulated":
        return {}
    found = {"policy": engines.policy}
    if isinstance(engines.small, ModelSettings):
        found["small"] = engines.small
    if isinstance(engines.scorer, ServedRewardSettings):
        found["reward"] = engines.scorer.model
    if (trained := engines.scorer.trained) is not None:
        base = engines.policy if trained.base == "policy" else trained.base
        served = {"dtype": engines.policy.dtype, "max_model_len": trained.max_model_len}
        found["trained reward"] = base.model_copy(update=served)
    return found


def known_shapes(engines: EngineSettings) -> dict[str, Architecture]:
    """The architectures that are known without a download."""
    found = {}
    for name, model in models_of(engines).items():
        try:
            found[name], _ = architecture_of(model)
        except (ConfigError, ModelError):
            continue  # its memory is then not checked; the engine says what it lacks
    return found


def check_placement(
    settings: RunSettings, nodes: Sequence[NodeResources], shapes: Shapes | None = None
) -> Placement:
    """Where everything goes on these nodes; overlapped, rollouts beside evaluation and training.

    `shapes` are the architectures by pool (default: those that are known here).

    Raises:
        PlacementError: says the sum, or what finds no node, by how much, and what to change.
    """
    needed = needed_resources(settings)
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if needed.cpus > cpus or needed.gpus > gpus:
        raise PlacementError(
            f"the configuration needs {needed}, but the cluster has {cpus:g} CPUs and {gpus:g} "
            "GPUs; use a larger cluster, or lower replicas, tensor_parallel or trainer.workers"
            f"{_or_in_turn(settings)}"
        )
    known = known_shapes(settings.engines) if shapes is None else shapes
    engines, evaluation, held = _place_engines(settings, nodes, known)
    return Placement(
        engines=engines,
        evaluation=evaluation,
        workers=_place_workers(settings, nodes, known, held),
        beside=_beside(settings, nodes, engines),
    )


def _or_in_turn(settings: RunSettings) -> str:
    """The last way out of a refusal."""
    return ", or set schedule: sequential" if settings.schedule == "overlapped" else ""


def bundles(settings: RunSettings) -> list[dict[str, float]]:
    """What an autoscaler is asked to have room for at once, each on one node.

    Engines and training take turns on the GPUs, so that of the workers only those count that are
    more than the engines' GPUs; overlapped, more than those of the engines of evaluations.
    """
    found, trainer = _bundles_of(settings.engines.pools.values()), settings.trainer
    in_turn = found
    if settings.schedule == "overlapped":
        in_turn = _bundles_of([evaluated(settings).engines.policy_pool])
        found = found + in_turn
    beyond = trainer.workers - int(sum(each["GPU"] for each in in_turn)) if trainer.use_gpu else 0
    found = found + [{"GPU": 1.0}] * beyond
    return found + [{"CPU": 1.0}] * math.ceil(needed_resources(settings).cpus)


def _bundles_of(pools: Iterable[PoolSettings]) -> list[dict[str, float]]:
    return [
        {"GPU": pool.gpus * pool.tensor_parallel}
        for pool in pools
        if pool.gpus
        for _ in range(pool.min_replicas)
    ]


def _place_engines(
    settings: RunSettings, nodes: Sequence[NodeResources], shapes: Shapes
) -> tuple[tuple[Placed, ...], tuple[Placed, ...], list[list[Demand]]]:
    """Every engine on one node, or the reason why there is none for it.

    Those of rollouts, those that evaluate beside them, and what by node is held while training
    works: nothing where engines and training take turns.
    """
    demands, places, bins = list[Demand](), list[tuple[str, int]](), _bins(nodes)
    pools = list(settings.engines.pools.items())
    own = sum(pool.min_replicas for _, pool in pools if pool.gpus)
    if settings.schedule == "overlapped":
        pools.append(("policy", evaluated(settings).engines.policy_pool))
    for name, pool in pools:
        if not pool.gpus:
            continue
        demand = Demand(
            name=name,
            share=round(pool.gpus * WHOLE),
            ranks=pool.tensor_parallel,
            least_bytes=_least_bytes(settings, name, shapes),
        )
        if not any(each.admits(demand) for each in bins):
            raise PlacementError(_fits_nowhere(settings, demand, nodes, shapes))
        demands += [demand] * pool.min_replicas
        places += [(name, replica) for replica in range(pool.min_replicas)]
    found = pack(demands, bins)
    if found is None:
        raise PlacementError(_fragmented(demands, nodes) + _or_in_turn(settings))
    placed = tuple(
        Placed(
            pool=name,
            replica=replica,
            share=demand.share / WHOLE,
            ranks=demand.ranks,
            node=nodes[node],
        )
        for (name, replica), demand, node in zip(places, demands, found, strict=True)
    )
    held: list[list[Demand]] = [[] for _ in nodes]
    if settings.schedule == "overlapped":
        for demand, node in zip(demands[:own], found, strict=False):
            held[node].append(demand)
    return placed[:own], placed[own:], held


def pool_memory(
    settings: RunSettings, name: str, shapes: Shapes, gpu_bytes: float | None = None
) -> EngineMemory | None:
    """The memory of a rank of a pool; None where its model is unknown."""
    model = models_of(settings.engines).get(name)
    if model is None or name not in shapes:
        return None
    return engine_memory(shapes[name], model, settings.engines.pools[name], gpu_bytes)


def _least_bytes(settings: RunSettings, name: str, shapes: Shapes) -> float:
    """The memory that a GPU must have for an engine with its share of it."""
    memory, pool = pool_memory(settings, name, shapes), settings.engines.pools[name]
    if memory is None:
        return 0.0
    wanted = memory.least if pool.kv_cache_gib is None else memory.total
    return wanted / (GPU_SHARE * pool.gpus)


def _fits_nowhere(
    settings: RunSettings, demand: Demand, nodes: Sequence[NodeResources], shapes: Shapes
) -> str:
    """Why not even an empty node takes it: too few GPUs, or too little memory on each."""
    largest = max(nodes, key=lambda node: node.gpus)
    if largest.gpus < demand.ranks:
        return (
            f"an engine of the {demand.name} pool needs {_gpus(demand)} on one node, and the "
            f"largest, {_name(largest)}, has {largest.gpus:g}: {demand.ranks - largest.gpus:g} "
            "short; lower tensor_parallel, or use larger nodes"
        )
    memory = pool_memory(settings, demand.name, shapes)
    assert memory is not None
    best = max(
        (node for node in nodes if node.gpus >= demand.ranks), key=lambda n: n.gpu_bytes or 0.0
    )
    share, there = demand.share / WHOLE, best.gpu_bytes or 0.0
    wanted = demand.least_bytes * GPU_SHARE * share
    cache = "the KV cache" if wanted == memory.total else "the KV cache of one whole sequence"
    return (
        f"an engine of the {demand.name} pool needs at least {wanted / GB:.1f} GB of a GPU "
        f"(weights {memory.weights / GB:.1f}; {cache}, activations and CUDA the rest), and may "
        f"take {GPU_SHARE * share * there / GB:.1f} GB on {_name(best)}, whose GPUs have "
        f"{there / GB:.1f}: {(wanted - GPU_SHARE * share * there) / GB:.1f} GB short; raise "
        "tensor_parallel, lower max_model_len or kv_cache_gib, or use larger GPUs"
    )


def _fragmented(demands: Sequence[Demand], nodes: Sequence[NodeResources]) -> str:
    """Which engine finds no node once the larger ones have theirs, and what is left where."""
    ordered, bins = sorted(demands, key=lambda each: (-each.size, -each.least_bytes)), _bins(nodes)
    fitting = bisect_left(
        range(len(ordered)), True, key=lambda n: pack(ordered[: n + 1], bins) is None
    )
    homes, lost = pack(ordered[:fitting], bins), ordered[fitting]
    assert homes is not None
    left = []
    for index, node in enumerate(nodes):
        taken = sum(d.size for d, home in zip(ordered, homes, strict=False) if home == index)
        if bins[index].admits(lost):
            left.append((node.gpus - taken / WHOLE, node))
    most, best = max(left, key=lambda each: each[0])
    shown = ", ".join(f"{_name(node)} {free:g} of {node.gpus:g}" for free, node in left[:8])
    more = f" and {len(left) - 8} more nodes" if len(left) > 8 else ""
    short = lost.size / WHOLE - most
    lacks = f"is {short:g} short" if short > 0 else "has them in pieces of GPUs only"
    return (
        f"an engine of the {lost.name} pool needs {_gpus(lost)} on one node, and none has them "
        f"left beside {fitting} other engines (free GPUs: {shown}{more}); {_name(best)} comes "
        f"nearest and {lacks}; lower replicas, gpus or tensor_parallel, or use larger nodes"
    )


def _bins(nodes: Sequence[NodeResources]) -> list[Bin]:
    return [Bin(gpus=int(node.gpus), gpu_bytes=node.gpu_bytes) for node in nodes]


def _gpus(demand: Demand) -> str:
    share = demand.share / WHOLE
    return f"{share:g} of a GPU" if share < 1 else f"{demand.ranks} whole GPUs"


def _name(node: NodeResources) -> str:
    return node.name or node.node_id[:8] or "a node"


def _place_workers(
    settings: RunSettings,
    nodes: Sequence[NodeResources],
    shapes: Shapes,
    held: Sequence[Sequence[Demand]],
) -> tuple[tuple[NodeResources, int], ...]:
    """How many training workers each node has room for beside the engines that are `held` there.

    Each has a node's whole GPU (where training uses them) and its CPUs on the same node.
    """
    trainer, least = settings.trainer, 0.0
    if trainer.use_gpu and "policy" in shapes:
        tokens = ForwardTokens(computed=0, scored=0)
        memory = training_memory(shapes["policy"], settings.training, trainer, tokens)
        least = memory.least + memory.overhead
    large = [
        (node, engines)
        for node, engines in zip(nodes, held, strict=True)
        if not trainer.use_gpu or node.gpu_bytes is None or node.gpu_bytes >= least
    ]
    room = [(node, _room(settings, node, engines)) for node, engines in large]
    if (found := sum(number for _, number in room)) >= trainer.workers:
        return tuple((node, number) for node, number in room if number)
    each = f"{trainer.cpus_per_worker:g} CPUs"
    if trainer.use_gpu:
        each = f"a whole GPU and {each} on its node"
    shown = ", ".join(f"{_name(node)} {number}" for node, number in room[:8])
    small = len(nodes) - len(large)
    memory_short = (
        f"; {small} nodes have GPUs of less than the {least / GB:.1f} GB that weights, gradients "
        "and optimizer take on each"
        if small
        else ""
    )
    beside = " beside the engines of rollouts" if any(held) else ""
    raise PlacementError(
        f"training needs {trainer.workers} workers, each with {each}, and the cluster has room for "
        f"{found}{beside} ({shown or 'none'}): {trainer.workers - found} short{memory_short}; "
        "lower trainer.workers or trainer.cpus_per_worker, raise trainer.zero_stage, or use more "
        f"nodes{_or_in_turn(settings)}"
    )


def _room(settings: RunSettings, node: NodeResources, held: Sequence[Demand]) -> int:
    by_cpus = int(node.cpus / settings.trainer.cpus_per_worker + 1e-9)
    if not settings.trainer.use_gpu:
        return by_cpus
    number, worker = min(by_cpus, int(node.gpus)), Demand(name="training", share=WHOLE, ranks=1)
    while number and pack([*held, *[worker] * number], [Bin(gpus=int(node.gpus))]) is None:
        number -= 1
    return number


def _beside(
    settings: RunSettings, nodes: Sequence[NodeResources], engines: Sequence[Placed]
) -> bool:
    """Whether training's workers fit while the engines run, as `has_room_beside` sees it."""
    free = sum(node.gpus for node in nodes) - sum(each.share * each.ranks for each in engines)
    cpus = sum(node.cpus for node in nodes)
    return has_room_beside(settings, NodeResources(cpus=cpus, gpus=free))
