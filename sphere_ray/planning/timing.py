"""How long each phase takes on given nodes: a roofline, or that corrected by what a run took."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sphere_ray.config.placement import NodeResources, evaluated
from sphere_ray.config.run import RunSettings
from sphere_ray.planning.habits import Habits
from sphere_ray.planning.hardware import GB, Gpu, gpu_of_node
from sphere_ray.planning.memory import engine_memory
from sphere_ray.planning.placement import Shapes, models_of
from sphere_ray.planning.work import Phase, Tokens

DECODING, READING, TRAINING = 0.5, 0.4, 0.35
"""Shares of a GPU's bandwidth and FLOP/s that decoding, reading and training reach."""
BUSY = 0.85
"""The share of a phase in which its engines have work."""
CORE_TFLOPS, CORE_TRAINING = 0.1, 0.52
"""TFLOP/s of a CPU core in float32, and the share of it that training reaches: as jobs/configs/
laptop.yaml took on 2 cores of an AMD EPYC."""
_ITERATION = re.compile(r"iter-\d+/?")

WORDS = (
    f"decoding reaches {DECODING:.0%} of the memory's bandwidth, reading prompts {READING:.0%} and "
    f"training {TRAINING:.0%} of the FLOP/s of bfloat16; engines have work {BUSY:.0%} of the time",
    "engines start in 90 s and training workers in 60 s on GPUs (40 s and 15 s on CPUs)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Nodes, what one of their GPUs does (None: there is none), and the cores behind all CPUs."""

    nodes: Sequence[NodeResources]
    gpu: Gpu | None
    cores: float

    @classmethod
    def of(cls, nodes: Sequence[NodeResources], *, here: bool = False) -> "Hardware":
        """Of these nodes; `here` says that they are this machine, whatever Ray is told of it."""
        gpus = [gpu_of_node(node) for node in nodes if node.gpus]
        cores = float(sum(node.cpus for node in nodes))
        if here:
            linux = sys.platform == "linux"
            cores = len(os.sched_getaffinity(0)) if linux else float(os.cpu_count() or 1)
        return cls(nodes=nodes, gpu=min(gpus, key=lambda g: g.tflops, default=None), cores=cores)

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return int(sum(node.gpus for node in self.nodes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a finished run took, by `key` of its phases: seconds of work, and seconds before it.

    The limits in `settings` are the numbers of problems that it read. `tokens` are decoded tokens,
    `chains` chains of the rollouts of an iteration, and `nodes` those of its cluster.
    `computed` and `scored` are tokens of the largest forward in training, where they are known.
    """

    name: str
    settings: RunSettings
    habits: Habits
    work_s: Mapping[str, float]
    start_s: Mapping[str, float]
    tokens: float
    chains: float
    nodes: int = 1
    computed: float | None = None
    scored: float | None = None

    def is_like(self, settings: RunSettings) -> bool:
        """Whether it generated and trained on what these settings do: GPUs, or none."""
        own = self.settings
        return (own.engines.policy_pool.gpus > 0, own.trainer.use_gpu) == (
            settings.engines.policy_pool.gpus > 0,
            settings.trainer.use_gpu,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A phase, the seconds of its work and of what starts before it, and the GPUs it holds."""

    phase: Phase
    start_s: float
    work_s: float
    gpus: float
    bottleneck: str = ""

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.start_s + self.work_s


def key(place: str) -> str:
    """What a phase is called in every iteration: `test/iter-001` is `test/`."""
    return _ITERATION.sub("", place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Times the phases of a configuration on some hardware."""

    settings: RunSettings
    hardware: Hardware
    shapes: Shapes
    habits: Habits
    factors: Mapping[str, float] = field(default_factory=dict)
    starts: Mapping[str, float] = field(default_factory=dict)

    def time(self, phase: Phase) -> Timed:
        """The seconds of a phase; factors and starts that a run gave come first."""
        evaluates = phase.kind == "evaluation"
        at = replace(self, settings=evaluated(self.settings)) if evaluates else self
        held, bottleneck = at._held(phase), ""
        if phase.passes:
            work = at._training_s(phase)
        else:
            work, bottleneck = at._generation_s(phase)
        name = key(phase.place)
        return Timed(
            phase=phase,
            start_s=self.starts.get(name, self._start_s(phase)),
            work_s=work * self.factors.get(name, 1.0),
            gpus=held,
            bottleneck=bottleneck,
        )

    def _held(self, phase: Phase) -> float:
        pools, trainer = self.settings.engines.pools, self.settings.trainer
        if phase.passes:
            return float(trainer.workers) if trainer.use_gpu else 0.0
        used = [pools[name] for name in phase.tokens]
        return sum(pool.min_replicas * pool.gpus * pool.tensor_parallel for pool in used)

    def _start_s(self, phase: Phase) -> float:
        on_gpu = self.settings.engines.policy_pool.gpus > 0
        match key(phase.place):
            case "policy":
                return 60.0 if self.settings.trainer.use_gpu else 15.0
            case "evaluation/base":
                return 90.0 if on_gpu else 40.0
            case "evaluation/trained":
                return 90.0 if on_gpu else 5.0
            case "rollouts":
                return 90.0 if len(phase.tokens) > 1 else 0.0
            case _:
                return 0.0

    def _training_s(self, phase: Phase) -> float:
        trainer, shape = self.settings.trainer, self.shapes["policy"]
        operations = 2.0 * shape.parameters * phase.forwards * phase.passes
        cores = min(self.hardware.cores / trainer.workers, trainer.cpus_per_worker)
        each = CORE_TFLOPS * CORE_TRAINING * cores
        if trainer.use_gpu and self.hardware.gpu is not None:
            each = self.hardware.gpu.tflops * TRAINING
        return operations / (each * 1e12 * trainer.workers)

    def _generation_s(self, phase: Phase) -> tuple[float, str]:
        """Pools on GPUs work beside each other, those without share the cores."""
        pools, on_gpus, on_cpus = self.settings.engines.pools, {"": 0.0}, 0.0
        for name, tokens in phase.tokens.items():
            pool = pools[name]
            if pool.gpus and self.hardware.gpu is not None:
                on_gpus[name] = self._pool_s(name, tokens, phase)
            else:
                operations = 2.0 * self.shapes[name].parameters * (tokens.decoded + tokens.read)
                used = min(pool.min_replicas / len(self.hardware.nodes), 1.0) * self.hardware.cores
                on_cpus += operations / (used * CORE_TFLOPS * 1e12)
        slowest = max(on_gpus, key=on_gpus.__getitem__)
        return max(on_gpus[slowest], on_cpus) / BUSY, slowest

    def _pool_s(self, name: str, tokens: Tokens, phase: Phase) -> float:
        """Seconds of a pool on GPUs for its tokens."""
        decoding, reading = self.rates(name, phase.sequences)
        replicas = self.settings.engines.pools[name].min_replicas
        return (tokens.decoded / decoding + tokens.read / reading) / replicas

    def rates(self, name: str, sequences: float) -> tuple[float, float]:
        """Tokens per second of one replica on GPUs: decoding, and reading.

        A step of decoding reads the weights once, and the KV cache of every sequence that runs:
        so many as are in flight, as `max_num_seqs` admits, and as the KV cache holds. It takes no
        less time than its multiplications.
        """
        pool, model = self.settings.engines.pools[name], models_of(self.settings.engines)[name]
        gpu, shape = self.hardware.gpu, self.shapes[name]
        assert gpu is not None
        memory = engine_memory(shape, model, pool, gpu.gb * GB)
        length = self.habits.prompt + self.habits.answer
        held = memory.kv_cache / (memory.kv_token * length)
        running = max(min(sequences / pool.min_replicas, pool.max_num_seqs, held), 1.0)
        flops = gpu.tflops * 1e12 * pool.gpus * pool.tensor_parallel
        bandwidth = gpu.gb_per_s * GB * pool.gpus
        moved = (memory.weights + running * length * memory.kv_token) / bandwidth / DECODING
        computed = 2.0 * shape.parameters * running / flops / READING
        return running / max(moved, computed), flops * READING / (2.0 * shape.parameters)


def corrections(clock: Clock, record: Record, own: Sequence[Phase]) -> dict[str, float]:
    """By key of a phase, how many times as long a run worked as its clock says.

    `own` are the phases of the run's own settings, and `clock` is one of these settings on the
    nodes it is taken to have run on.
    """
    estimated = {key(phase.place): clock.time(phase).work_s for phase in own}
    return {
        name: record.work_s[name] / seconds
        for name, seconds in estimated.items()
        if seconds and record.work_s.get(name)
    }
