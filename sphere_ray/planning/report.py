"""A plan as lines of text that a reader can check by hand."""

from collections import Counter
from collections.abc import Iterator, Sequence

from sphere_ray.config.placement import NodeResources, needed_resources
from sphere_ray.planning.architectures import BYTES, Architecture
from sphere_ray.planning.hardware import GB
from sphere_ray.planning.memory import GPU_SHARE, EngineMemory, TrainingMemory
from sphere_ray.planning.placement import Placement, models_of
from sphere_ray.planning.plan import RunPlan
from sphere_ray.planning.timing import Timed


def lines(plan: RunPlan) -> Iterator[str]:
    """The plan: memory, placement, work, what it costs, and what it rests on.

    Of what does not fit there is the memory alone.
    """
    yield f"Plan of {plan.settings.name} on {_nodes(plan)}"
    yield ""
    yield "Memory in GB of 10^9 bytes, of each GPU of an engine (without GPUs: of its processes)"
    yield from _memory(plan)
    yield ""
    if plan.placement is None:
        return
    yield "Placement"
    yield from _placement(plan, plan.placement)
    yield ""
    yield "Work and time"
    yield from _work(plan)
    yield ""
    yield "This rests on"
    for word in plan.words:
        yield f"- {word}"


def _nodes(plan: RunPlan) -> str:
    """Nodes that are alike in one piece."""
    alike = Counter((n.cpus, n.gpus, n.gpu) for n in plan.question.nodes)
    found = []
    for (cpus, gpus, gpu), number in alike.items():
        nodes = "1 node" if number == 1 else f"{number} nodes"
        having = f"{gpus:g} GPUs ({gpu or 'of unknown kind'}) and " if gpus else ""
        found.append(f"{nodes} of {having}{cpus:g} CPUs")
    taken = f"; its GPUs are taken as {plan.hardware.gpu}" if plan.hardware.gpu else ""
    return ", ".join(found) + taken


def _memory(plan: RunPlan) -> Iterator[str]:
    pools, models = plan.settings.engines.pools, models_of(plan.settings.engines)
    rows: list[tuple[str, ...]] = [
        ("pool", "engines", "weights", "KV cache", "activations", "rest", "sum", "limit")
    ]
    gpu = plan.hardware.gpu
    for name, memory in plan.pools.items():
        pool = pools[name]
        limit = GPU_SHARE * pool.gpus * gpu.gb if gpu and pool.gpus else None
        engines = f"{pool.min_replicas} x {pool.gpus * pool.tensor_parallel:g} GPU"
        parts = (memory.weights, memory.kv_cache, memory.activations, memory.overhead, memory.total)
        shown = (f"{part / GB:.1f}" for part in parts)
        rows.append((name, engines, *shown, "-" if limit is None else f"{limit:.1f}"))
    yield from _table(rows)
    for name, memory in plan.pools.items():
        shape, source = plan.shapes[name]
        summed = _sum_of_engine(plan, name, shape, memory)
        yield f"  {name}: {summed} ({models[name].path}: {source})"
    yield from _training(plan)


def _sum_of_engine(plan: RunPlan, name: str, shape: Architecture, memory: EngineMemory) -> str:
    model, pool = models_of(plan.settings.engines)[name], plan.settings.engines.pools[name]
    number, ranks = BYTES[model.dtype], pool.tensor_parallel
    split = f" / {ranks} ranks" if ranks > 1 else ""
    wanted = pool.max_num_seqs * memory.kv_sequence / GB
    return (
        f"{shape.parameters:,} parameters x {number} bytes{split}; a token's KV cache is 2 x "
        f"{shape.layers} layers x {shape.kv_heads} heads x {shape.head_dim} x {number} bytes"
        f"{split} = {memory.kv_token:,.0f}, a sequence of {model.max_model_len} tokens "
        f"{memory.kv_sequence / GB:.2f} GB: {int(memory.sequences)} such fit at once (max_num_seqs "
        f"{pool.max_num_seqs} would take {wanted:.0f} GB)"
    )


def _training(plan: RunPlan) -> Iterator[str]:
    training, trainer, memory = plan.settings.training, plan.settings.trainer, plan.training
    adapters = f", LoRA of rank {training.lora.rank}" if training.lora else ""
    yield (
        f"  training: {trainer.workers} workers, ZeRO {memory.stage}, {training.precision}"
        f"{adapters}; each {_parts(memory)} = {memory.total / GB:.1f}"
        f"{_limit(plan)}; {plan.longest.total / GB:.1f} if all pairs had the most tokens"
    )
    if memory.host:
        yield f"  training: {memory.host / GB:.1f} of each worker's optimizer are in the host"


def _parts(memory: TrainingMemory) -> str:
    return " + ".join(f"{name} {value / GB:.1f}" for name, value in memory.parts.items() if value)


def _limit(plan: RunPlan) -> str:
    gpu = plan.hardware.gpu
    return f" of {gpu.gb:g}" if gpu and plan.settings.trainer.use_gpu else ""


def _placement(plan: RunPlan, placement: Placement) -> Iterator[str]:
    homes: dict[str, list[str]] = {_name(node): [] for node in plan.question.nodes}
    placed = [(each, each.pool) for each in placement.engines]
    placed += [(each, "evaluation") for each in placement.evaluation]
    for each, role in placed:
        share = "" if each.share == 1 == each.ranks else f" ({each.share * each.ranks:g} GPUs)"
        homes[_name(each.node)].append(f"{role} {each.replica}{share}")
    homes = {node: engines for node, engines in homes.items() if engines}
    for node, engines in list(homes.items())[:16]:
        yield f"  {node}: {', '.join(engines)}"
    if len(homes) > 16:
        yield f"  and {len(homes) - 16} more nodes alike"
    if not homes:
        yield "  no engine has a GPU: they share the cores of a node"
    kind = "a whole GPU each" if plan.settings.trainer.use_gpu else "no GPU"
    turn = "beside the engines" if placement.beside else "in turn with them"
    if plan.settings.schedule == "overlapped":
        turn = "beside the rollouts, in turn with evaluation"
    yield f"  training: {plan.settings.trainer.workers} workers with {kind}, {turn}"
    yield from _unused(plan)


def _unused(plan: RunPlan) -> Iterator[str]:
    """What to set where the nodes have room for several times as many engines."""
    pools, trainer = plan.settings.engines.pools, plan.settings.trainer
    used = sum(p.min_replicas * p.gpus * p.tensor_parallel for p in pools.values())
    if plan.settings.schedule == "overlapped":
        used = needed_resources(plan.settings).gpus
    times = int(plan.hardware.gpus / used) if used else 0
    if used and used < plan.hardware.gpus:
        yield f"  {plan.hardware.gpus - used:g} of {plan.hardware.gpus} GPUs have no engine"
    if times > 1:
        keys = {"policy": "policy_pool", "small": "small_pool", "reward": "scorer.pool"}
        sets = [
            f"--set engines.{keys[name]}.replicas={pool.min_replicas * times}"
            for name, pool in pools.items()
            if name in keys and pool.gpus
        ]
        if trainer.use_gpu and plan.settings.training.batch_size % (trainer.workers * times) == 0:
            sets.append(f"--set trainer.workers={trainer.workers * times}")
        yield f"  to use them: {' '.join(sets)}"


def _name(node: NodeResources) -> str:
    return node.name or "this machine"


def _work(plan: RunPlan) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [
        ("step", "rows", "chains", "decoded tokens", "time", "GPU-hours", "does")
    ]
    rows += [_row(plan, each) for each in plan.phases]
    todo, gpus = plan.to_do, plan.hardware.gpus
    chains = _scale(plan, "rollouts", "chains") * sum(
        each.phase.chains for each in plan.phases if each.phase.kind == "rollouts"
    )
    rows.append(
        ("to do", "", f"{chains:,.0f}", "", _time(plan.seconds), f"{plan.gpu_hours:,.1f}", "")
    )
    if not gpus:
        rows = [(*row[:5], row[6]) for row in rows]
    yield from _table(rows)
    for each in todo:
        if each.phase.kind == "rollouts" and each.bottleneck:
            engines = plan.settings.engines.policy_pool.min_replicas
            yield (
                f"  {each.phase.place} goes as fast as its {each.bottleneck} pool; "
                f"{each.phase.sequences:,.0f} sequences in flight (rollout.*) are "
                f"{each.phase.sequences / engines:,.0f} for each policy engine"
            )
    if gpus:
        used = sum(each.gpus * each.seconds for each in todo) / 3600
        yield f"  GPU-hours are those of all {gpus} GPUs; engines and training hold {used:,.1f}"
    if plan.cost is not None:
        hours, price = plan.gpu_hours, plan.question.price
        yield f"  cost: {hours:,.1f} GPU-hours x {price:g} = {plan.cost:,.2f}"


def _row(plan: RunPlan, timed: Timed) -> tuple[str, ...]:
    phase, gpus = timed.phase, plan.hardware.gpus
    decoded = sum(tokens.decoded for tokens in phase.tokens.values())
    decoded *= _scale(plan, phase.kind, "tokens")
    chains = phase.chains * _scale(plan, phase.kind, "chains")
    trained = phase.forwards * plan.scales.get("trained", 1.0)
    return (
        phase.place,
        f"{phase.rows:,.0f}",
        f"{chains:,.0f}" if chains else "",
        f"{decoded:,.0f}" if decoded else f"({trained:,.0f} trained)",
        _time(timed.seconds),
        f"{gpus * timed.seconds / 3600:,.1f}",
        "reuse" if phase.place in plan.question.reused else "make",
    )


def _scale(plan: RunPlan, kind: str, what: str) -> float:
    """What a run counted of its rollouts for each that its sum says."""
    return plan.scales.get(what, 1.0) if kind == "rollouts" else 1.0


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 172800 else f"{seconds / 86400:,.1f} days"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of text: the first is flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  " + "  ".join(cells).rstrip()
