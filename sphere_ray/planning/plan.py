"""The whole plan of a configuration on given nodes, and the reuse of what a run has."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sphere_ray.config.placement import NodeResources
from sphere_ray.config.run import RunSettings
from sphere_ray.errors import ConfigError, PlacementError
from sphere_ray.planning.architectures import Architecture, architecture_of
from sphere_ray.planning.habits import Habits, assumed
from sphere_ray.planning.memory import (
    EngineMemory,
    ForwardTokens,
    TrainingMemory,
    training_memory,
)
from sphere_ray.planning.placement import (
    Placement,
    check_placement,
    models_of,
    pool_memory,
)
from sphere_ray.planning.timing import WORDS, Clock, Hardware, Record, Timed, corrections
from sphere_ray.planning.work import Benchmarks, forward_tokens, largest_forward, phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be planned, where, and from what.

    `here` says that the nodes are this machine. `given` are config.json files by model, `price` is
    that of a GPU and hour, `chains` replace the number of training problems. `reused` names the
    directories of the steps that are there already.
    """

    settings: RunSettings
    nodes: Sequence[NodeResources]
    here: bool = False
    given: Mapping[str, Path] = field(default_factory=dict)
    benchmarks: Benchmarks = field(default_factory=dict)
    record: Record | None = None
    price: float | None = None
    chains: int | None = None
    reused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a configuration needs and takes. `refusal` says why it does not fit, if it does not."""

    question: Question
    settings: RunSettings
    hardware: Hardware
    shapes: Mapping[str, tuple[Architecture, str]]
    habits: Habits
    pools: Mapping[str, EngineMemory]
    training: TrainingMemory
    longest: TrainingMemory
    placement: Placement | None
    refusal: str | None
    phases: Sequence[Timed]
    scales: Mapping[str, float] = field(default_factory=dict)
    words: Sequence[str] = ()

    @property
    def to_do(self) -> list[Timed]:
        """The phases that are not there yet."""
        return [each for each in self.phases if each.phase.place not in self.question.reused]

    @property
    def seconds(self) -> float:
        """Of the phases that are not there yet; overlapped, the longer side of every turn.

        What has no GPU shares the cores with what runs beside it, and saves nothing by that.
        """
        on_gpus = all(each.gpus for each in self.phases)
        if self.settings.schedule == "sequential" or not on_gpus:
            return sum(each.seconds for each in self.to_do)
        sides: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for each in self.to_do:
            sides[each.phase.turn][each.phase.kind == "rollouts"] += each.seconds
        return sum(max(both) for both in sides.values())

    @property
    def gpu_hours(self) -> float:
        """All GPUs of the nodes, for as long as the run lasts."""
        return self.hardware.gpus * self.seconds / 3600

    @property
    def cost(self) -> float | None:
        """GPU-hours at the price of one, if there is a price."""
        price = self.question.price
        return None if price is None else price * self.gpu_hours


def make_plan(question: Question) -> RunPlan:
    """Add everything up.

    Raises:
        ConfigError: a model or a number of problems is unknown; says which option gives it.
        ModelError: a config.json cannot be planned with.
    """
    settings = question.settings
    if settings.engines.backend == "simulated":
        raise ConfigError(
            "engines.backend: simulated has no models to plan for; plan a configuration with "
            "backend: vllm"
        )
    found = {
        name: architecture_of(model, question.given)
        for name, model in models_of(settings.engines).items()
    }
    shapes = {name: shape for name, (shape, _) in found.items()}
    record, hardware = question.record, Hardware.of(question.nodes, here=question.here)
    habits = record.habits if record is not None else assumed(settings)
    if record is not None:
        settings = _with_sizes(settings, record.settings)
    if question.chains is not None:
        settings = _with_chains(settings, habits, question.chains, record)
    clock = Clock(settings=settings, hardware=hardware, shapes=shapes, habits=habits)
    if record is not None:
        clock = _calibrated(clock, record, question)
    placement, refusal = None, None
    try:
        placement = check_placement(settings, question.nodes, shapes)
    except PlacementError as short:
        refusal = str(short)
    memory = {
        name: pool_memory(settings, name, shapes, hardware.gpu.gb * 1e9 if hardware.gpu else None)
        for name in shapes
    }
    training = shapes["policy"], settings.training, settings.trainer
    return RunPlan(
        question=question,
        settings=settings,
        hardware=hardware,
        shapes=found,
        habits=habits,
        pools={name: each for name, each in memory.items() if each is not None},
        training=training_memory(*training, _forward(settings, habits, record)),
        longest=training_memory(*training, largest_forward(settings)),
        placement=placement,
        refusal=refusal,
        phases=[clock.time(phase) for phase in phases(settings, habits, question.benchmarks)],
        scales={} if record is None else _scales(record),
        words=_words(settings, habits, record),
    )


def _forward(settings: RunSettings, habits: Habits, record: Record | None) -> ForwardTokens:
    """The tokens of a training worker's forward: as the run counted them, or the sum's."""
    sums = forward_tokens(settings, habits)
    if record is None or record.computed is None or record.scored is None:
        return sums
    micro = settings.training.micro_batch_size / record.settings.training.micro_batch_size
    return ForwardTokens(computed=record.computed * micro, scored=record.scored * micro)


def _calibrated(clock: Clock, record: Record, question: Question) -> Clock:
    """The clock corrected by a run, which is taken to have run on nodes like these."""
    if not record.is_like(clock.settings):
        return clock
    models = models_of(record.settings.engines)
    shapes = {name: architecture_of(model, question.given)[0] for name, model in models.items()}
    cores = clock.hardware.cores / len(clock.hardware.nodes) * record.nodes
    own = replace(
        clock,
        settings=record.settings,
        shapes=shapes,
        hardware=replace(clock.hardware, cores=cores),
    )
    factors = corrections(own, record, phases(record.settings, record.habits, {}))
    return replace(clock, factors=factors, starts=record.start_s)


def _scales(record: Record) -> dict[str, float]:
    """How many times as many decoded `tokens`, `chains` and `trained` tokens a run counted.

    As many as the sums of its own settings say, that is.
    """
    own = phases(record.settings, record.habits, {})
    rollouts = next(phase for phase in own if phase.kind == "rollouts")
    summed = sum(each.decoded for each in rollouts.tokens.values())
    forward = forward_tokens(record.settings, record.habits).computed
    return {
        "tokens": record.tokens / summed if summed else 1.0,
        "chains": record.chains / rollouts.chains if rollouts.chains else 1.0,
        "trained": (record.computed or forward) / forward,
    }


def _with_sizes(settings: RunSettings, counted: RunSettings) -> RunSettings:
    """The settings with the sizes of splits that a run read from the same sources, whole."""
    splits = {}
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(settings.problems, split), getattr(counted.problems, split)
        if not ours.limit and ours.source == theirs.source:
            splits[split] = theirs
    problems = settings.problems.model_copy(update=splits)
    return settings.model_copy(update={"problems": problems})


def _with_chains(
    settings: RunSettings, habits: Habits, chains: int, record: Record | None
) -> RunSettings:
    """The settings with as many training problems as give so many chains in all iterations."""
    per_problem = 0.0
    for phase in phases(settings, habits, {}):
        if phase.kind == "rollouts":
            per_problem += phase.chains / phase.rows
    if record is not None:
        per_problem *= _scales(record)["chains"]
    limit = max(round(chains / per_problem), 1)
    train = settings.problems.train.model_copy(update={"limit": limit})
    problems = settings.problems.model_copy(update={"train": train})
    return settings.model_copy(update={"problems": problems})


def _words(settings: RunSettings, habits: Habits, record: Record | None) -> list[str]:
    """What the plan rests on, a sentence each."""
    found = [
        *habits.words.values(),
        "every first candidate is promoted at the first look; no problem fails",
        "problems, pairs and decisions take little, and are left out",
    ]
    if settings.engines.scorer.trained is not None:
        found.append("the configured reward source scores in every iteration")
    if settings.schedule == "overlapped":
        found.append(
            "schedule: overlapped rolls out beside what the iteration before teaches: where both "
            "have GPUs the longer counts, and without GPUs they share the cores and add up"
        )
    if record is None:
        return [*found, *WORDS, "no run was given (--like): times may be off by a factor of 3"]
    if not record.is_like(settings):
        where = f"{record.name} ran on other hardware (GPUs or none): its times are not taken"
        return [*found, *WORDS, f"{where}, and these may be off by a factor of 3"]
    return [
        *found,
        f"the seconds of each phase are those of {record.name}, scaled by work, engines and model "
        "to this configuration; it is taken to have run on nodes like these",
    ]
