"""How much each phase of a run has to compute: tokens by pool, floating-point operations, rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sphere_ray.config.run import RunSettings
from sphere_ray.config.scorers import RolloutValueSettings, ServedRewardSettings
from sphere_ray.config.training import TrainingSettings, shares_prefixes
from sphere_ray.planning.habits import Habits, split_size
from sphere_ray.planning.memory import ForwardTokens
from sphere_ray.records import StageName


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of one pool: written one by one, and read (prompts, steps to score) all at once."""

    decoded: float = 0.0
    read: float = 0.0

    def __add__(self, other: "Tokens") -> "Tokens":
        """The sum."""
        return Tokens(decoded=self.decoded + other.decoded, read=self.read + other.read)

    def __mul__(self, times: float) -> "Tokens":
        """So many times as much."""
        return Tokens(decoded=self.decoded * times, read=self.read * times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A step of the run by the name of its directory, and its work.

    `tokens` are by pool; training has `forwards` tokens to compute instead, `passes` times the
    work of a forward each. `sequences` may run at once. Overlapped, the rollouts of a `turn` run
    beside its other phases (see `evolution.schedule`).
    """

    place: str
    kind: str
    rows: float
    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    chains: float = 0.0
    sequences: float = 0.0
    forwards: float = 0.0
    passes: float = 0.0
    turn: int = 0


Benchmarks = Mapping[str, tuple[RunSettings, int]]
"""Named benchmarks: the settings that each is asked with, and its problems."""


def phases(settings: RunSettings, habits: Habits, benchmarks: Benchmarks) -> list[Phase]:
    """The phases of a run in which every first candidate is promoted at the first look."""
    looked = min(settings.promotion.first_look, split_size(settings, "validation"))
    tested = split_size(settings, "test")
    found = [
        _evaluation("evaluation/base", settings, habits, looked),
        _evaluation("test/base", settings, habits, tested),
        *_benchmarks("base", habits, benchmarks),
    ]
    next_scored = 2 if settings.schedule == "overlapped" else 1
    for number in range(settings.iterations):
        at = f"iter-{number:03}/"
        problems = split_size(settings, "train")
        pairs = problems * habits.pairs
        lesson = [
            _training(f"{at}reference", settings, habits, pairs, passes=1.0),
            _training(f"{at}policy", settings, habits, pairs, passes=_passes(settings.training)),
            _evaluation(f"{at}evaluation/trained", settings, habits, looked),
        ]
        trains_reward = settings.engines.scorer.trained is not None
        if trains_reward and number + next_scored < settings.iterations:
            lesson.append(_reward_training(f"{at}reward", settings, habits, problems))
        rollouts = _rollouts(f"{at}rollouts", settings, habits, problems)
        found.append(replace(rollouts, turn=number))
        found += [replace(phase, turn=number + 1) for phase in lesson]
    last = f"iter-{settings.iterations - 1:03}"
    exam = [_evaluation(f"test/{last}", settings, habits, tested)]
    exam += _benchmarks(last, habits, benchmarks)
    return found + [replace(phase, turn=settings.iterations + 1) for phase in exam]


def _benchmarks(model: str, habits: Habits, benchmarks: Benchmarks) -> list[Phase]:
    """What a model answers of each named benchmark, as that is asked."""
    return [
        _evaluation(f"benchmarks/{name}/{model}", settings, habits, number)
        for name, (settings, number) in benchmarks.items()
    ]


def _evaluation(place: str, settings: RunSettings, habits: Habits, problems: int) -> Phase:
    """Every problem is answered greedily, and `num_samples` times."""
    evaluation, search = settings.evaluation, settings.method.search
    answers = problems * (1 + evaluation.num_samples)
    length = habits.answer * evaluation.max_tokens / search.max_chain_tokens
    return Phase(
        place=place,
        kind="evaluation",
        rows=problems,
        tokens={"policy": Tokens(decoded=answers * length, read=problems * habits.question)},
        chains=answers,
        sequences=min(_in_flight(settings) * (1 + evaluation.num_samples), answers),
    )


def _rollouts(place: str, settings: RunSettings, habits: Habits, problems: int) -> Phase:
    """SPHERE's stages: what each adds to a pool's tokens, for its share of the problems."""
    stages, search = settings.method.stages, settings.method.search
    sampled = search.strategy == "sampled"
    shares = {StageName.SELF_GENERATION: 1.0}
    if StageName.SELF_CORRECTION in settings.method.taken_stages:
        checked = habits.both_right * stages.correction_check_share
        shares[StageName.SELF_CORRECTION] = habits.both_wrong * stages.correction_share + checked
    if StageName.DIVERSITY in settings.method.taken_stages:
        shares[StageName.DIVERSITY] = habits.both_right
    small = "policy" if settings.engines.small == "policy" else "small"
    tokens: dict[str, Tokens] = {}
    for stage, share in shares.items():
        wide = stages.small_budget if stage is StageName.DIVERSITY else 1
        writer = small if stage is StageName.DIVERSITY else "policy"
        found = _search(settings, habits, writer, search.num_candidates * wide)
        for pool, each in found.items():
            tokens[pool] = tokens.get(pool, Tokens()) + each * (share * problems)
    number = search.num_samples if sampled else 2
    return Phase(
        place=place,
        kind="rollouts",
        rows=problems,
        tokens=tokens,
        chains=problems * sum(shares.values()) * number,
        sequences=_in_flight(settings) * (number if sampled else 2 * search.num_candidates),
    )


def _search(
    settings: RunSettings, habits: Habits, writer: str, candidates: int
) -> dict[str, Tokens]:
    """The tokens of one problem's search, by pool.

    Two branches write `candidates` next steps at each step. With rollout values the policy
    completes every step but the last, on average half a chain. A reward model reads the prompt
    and every candidate once, the rest is in its prefix cache.
    """
    search, scorer = settings.method.search, settings.engines.scorer
    prompt = Tokens(read=habits.question + 2 * habits.answer)
    if search.strategy == "sampled":
        return {writer: prompt + Tokens(decoded=search.num_samples * habits.answer)}
    written = 2 * candidates * habits.answer
    found = {writer: prompt + Tokens(decoded=written)}
    if isinstance(scorer, RolloutValueSettings):
        completed = candidates * scorer.num_completions * habits.answer * (habits.steps - 1)
        found["policy"] = found.get("policy", Tokens()) + Tokens(decoded=completed)
    elif isinstance(scorer, ServedRewardSettings):
        found["reward"] = Tokens(read=habits.prompt + written)
    return found


def _in_flight(settings: RunSettings) -> int:
    """Problems that a stage works on at once."""
    rollout = settings.rollout
    return rollout.stage_actors * rollout.batches_in_flight * rollout.batch_size


def _training(
    place: str, settings: RunSettings, habits: Habits, pairs: float, *, passes: float
) -> Phase:
    micro = settings.training.micro_batch_size
    per_pair = forward_tokens(settings, habits).computed / micro
    epochs = settings.training.epochs if passes > 1 else 1
    return Phase(
        place=place,
        kind=place.rpartition("/")[2],
        rows=pairs,
        forwards=epochs * pairs * per_pair,
        passes=passes,
    )


def _reward_training(place: str, settings: RunSettings, habits: Habits, problems: int) -> Phase:
    """A reward model learns from every step that a problem's search wrote."""
    trained, search = settings.engines.scorer.trained, settings.method.search
    assert trained is not None
    written = habits.prompt + 2 * search.num_candidates * habits.answer
    passes = 4.0 if trained.training.gradient_checkpointing else 3.0
    forwards = trained.training.epochs * problems * written
    return Phase(place=place, kind="reward", rows=problems, forwards=forwards, passes=passes)


def forward_tokens(settings: RunSettings, habits: Habits) -> ForwardTokens:
    """Tokens of one forward: prompts once, and of each pair both sides.

    Where rows share prefixes, the fixed part of the prompts is there once for all of them.
    """
    training = settings.training
    sides = 2 * min(habits.answer, settings.method.pairs.max_tokens)
    micro, question = training.micro_batch_size, habits.question
    if not shares_prefixes(training.attention):
        computed = micro * (2 * (habits.shared + question) + sides)
    else:
        computed = habits.shared + micro * (question + sides)
    return ForwardTokens(computed=computed, scored=micro * sides)


def largest_forward(settings: RunSettings) -> ForwardTokens:
    """A forward of pairs that are all as long as `training.max_length` admits."""
    training, pairs = settings.training, settings.method.pairs
    sides = 2 * min(pairs.max_tokens, training.max_length)
    computed = 2 * training.max_length * training.micro_batch_size
    return ForwardTokens(computed=computed, scored=training.micro_batch_size * sides)


def _passes(training: TrainingSettings) -> float:
    """The work of a step in forwards: forward 1, gradients 1 of activations and 1 of weights."""
    passes = 3.0 if training.lora is None else 2.0
    return passes + (1.0 if training.gradient_checkpointing else 0.0)
