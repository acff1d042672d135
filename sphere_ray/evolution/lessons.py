"""What an iteration's rollouts teach: pairs, candidates, and which policy goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.evolution.decision import Contestant, Trial, Validation
from sphere_ray.evolution.outcome import Iteration
from sphere_ray.method.audit import Audit
from sphere_ray.records import ModelRef, Writer
from sphere_ray.runs.directory import MODEL
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Made, Step
from sphere_ray.runs.steps.average import AverageStep
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import COLLAPSED, OUTCOME, HalfRateStep, PolicyStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.reward_model import Recorded, RewardModelStep, handover

UNKNOWN = ""
"""The fingerprint of a model that is only planned."""


@dataclass(frozen=True, kw_only=True)
class Author:
    """The policy that writes rollouts, what scores them, and how many promotions it knows of."""

    policy: Contestant
    scored_by: ModelRef | None
    promotions: int


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """The rollouts of an iteration, and who wrote them."""

    number: int
    rollouts: Made
    author: Author


@dataclass(kw_only=True)
class State:
    """Where the loop stands: the policy, the rate, iterations in a row without a better one."""

    policy: Contestant
    learning_rate: float
    promotions: int = 0
    refusals: int = 0
    reward_model: ModelRef | None = None
    rolled: list[Rolled] = field(default_factory=list)
    iterations: list[Iteration] = field(default_factory=list)
    kept: tuple[Iteration, ...] = ()
    """Iterations whose pairs made nothing better yet; the next ones join them."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What every iteration stands on."""

    base: ModelRef
    problems: Made
    benchmarks: dict[str, Made]
    validation: Validation


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Learns from one iteration's rollouts after the other; a plan of it has no session."""

    settings: RunSettings
    make: Callable[[Step], Made]
    audit: Audit
    session: Session | None

    def learn(self, ground: Ground, state: State, rolled: Rolled) -> None:
        """What an iteration's rollouts teach, and whether a policy trained on it goes on."""
        ground.validation.answers(state.policy)
        this = self._study(ground, state, rolled)
        if this.refusal is None:
            self._try_candidates(ground.validation, state, this)
        ground.validation.close_iteration(this.trials)
        self._decide(state, this)
        if self.session is not None:
            self.session.finish_training(this.number)

    def _study(self, ground: Ground, state: State, rolled: Rolled) -> Iteration:
        """Everything up to the reference table; `refusal` says why there is none."""
        settings, number, author = self.settings, rolled.number, rolled.author
        common: Any = {"settings": settings, "iteration": number}
        kept = tuple(each.pairs for each in state.kept)
        pairs = self.make(
            PairsStep(rollouts=rolled.rollouts, kept=kept, audit=self.audit, **common)
        )
        this = Iteration(
            number=number, rollouts=rolled.rollouts, pairs=pairs, scored_by=author.scored_by
        )
        this.writers = _writers(state, this, author)
        state.iterations.append(this)
        if kept:
            earlier = sum(each.report.rows_out for each in kept)
            self._log(f"iteration {number}: {earlier} earlier pairs join its own")
        used_by = number + (2 if settings.schedule == "overlapped" else 1)
        if settings.engines.scorer.trained is not None and used_by < settings.iterations:
            self._hand_over(ground.base, state, this)
        initial = settings.training.reference == "initial"
        anchor = ground.base if initial else state.policy.model
        this.refusal = self._too_few(pairs, *kept)
        if this.refusal is None:
            this.reference = self.make(
                ReferenceStep(pairs=pairs, kept=kept, model=anchor, **common)
            )
            this.refusal = self._too_few(this.reference)
        return this

    def _try_candidates(self, validation: Validation, state: State, this: Iteration) -> None:
        """Make candidates from the same pairs and let them meet the policy, until one wins."""
        for name in self.settings.promotion.candidates:
            step = self._candidate(name, state, this)
            if step is None:
                continue
            trial = Trial(candidate=name, made=self.make(step))
            this.trials.append(trial)
            if collapse := _collapse(trial.made):
                trial.refusal = f"training collapsed: {collapse}"
            else:
                model = _model_of(trial.made, this.number)
                candidate = Contestant(model=model, name=name, iteration=this.number)
                validation.compare(state.policy, candidate, trial, attempt=len(this.trials))
                if trial.refusal is None:
                    state.policy = candidate
                    return
            self._log(f"iteration {this.number}: {name} is refused ({trial.refusal})")

    def _candidate(self, name: str, state: State, this: Iteration) -> Step | None:
        """The step that makes a candidate; None for half the way to a training that collapsed."""
        policy, number = state.policy.model, this.number
        if name == "halfway":
            trained = this.trials[0]
            if not trained.after:
                return None
            return AverageStep(start=policy, trained=trained.made, iteration=number)
        assert this.reference is not None
        kind, share = (PolicyStep, 1.0) if name == "trained" else (HalfRateStep, 0.5)
        return kind(
            settings=self.settings,
            reference=this.reference,
            policy=policy,
            learning_rate=share * state.learning_rate,
            writers=this.writers,
            iteration=number,
        )

    def _hand_over(self, base: ModelRef, state: State, this: Iteration) -> None:
        """Train a reward model for the next rollouts; it takes over if its figures hold."""
        trained = self.settings.engines.scorer.trained
        assert trained is not None
        recorded = (
            Recorded(rollouts=each.rollouts, trained=each.author.scored_by is not None)
            for each in state.rolled[: this.number + 1]
        )
        this.reward = self.make(
            RewardModelStep(
                settings=self.settings,
                trained=trained,
                recorded=tuple(recorded),
                base=base,
                audit=self.audit,
                iteration=this.number,
            )
        )
        if this.reward.finished is None:
            state.reward_model = _model_of(this.reward, this.number)
            return
        reason = handover(this.reward.path, trained.schedule)["refusal"]
        if reason is None:
            state.reward_model = _model_of(this.reward, this.number)
        else:
            self._log(f"iteration {this.number}: the reward source stays ({reason})")
        self._record("handover", iteration=this.number, accepted=reason is None, reason=reason)

    def _too_few(self, made: Made, *kept: Made) -> str | None:
        least = self.settings.training.min_pairs
        if made.finished is None:
            return None
        found = sum(each.report.rows_out for each in (made, *kept))
        if found >= least:
            return None
        dropped = f"; dropped: {dict(made.report.dropped)}" if made.report.dropped else ""
        return (
            f"{found} pairs are fewer than training.min_pairs ({least}){dropped}; "
            "roll out more problems"
        )

    def _decide(self, state: State, this: Iteration) -> None:
        """Count refusals, and lower the rate to one that a candidate may win with."""
        winner = this.winner
        if winner is None:
            state.refusals += 1
            state.kept += (this,)
            this.refusal = this.refusal or this.refusals
        else:
            state.refusals, state.kept = 0, ()
            state.promotions += 1
        if this.trials and (winner is None or winner.candidate == "half_rate"):
            state.learning_rate /= 2
        if this.refusal is not None:
            halved = state.learning_rate < self.settings.training.learning_rate
            rate = f"; learning rate now {state.learning_rate:g}" if halved else ""
            self._log(f"iteration {this.number}: the policy stays ({this.refusal}){rate}")
        self._record(
            "decided",
            iteration=this.number,
            promoted=winner is not None,
            candidate=winner and winner.candidate,
            reason=this.refusal,
        )

    def _log(self, text: str) -> None:
        if self.session is not None:
            self.session.log(text)

    def _record(self, event: str, **fields: Any) -> None:
        if self.session is not None:
            self.session.record(event, **fields)


def _writers(state: State, this: Iteration, author: Author) -> tuple[Writer, ...]:
    """Who wrote the pairs that the iteration trains on: its own, and the kept ones."""
    own = Writer(
        iteration=this.number,
        policy=author.policy.model.fingerprint,
        policy_iteration=author.policy.model.iteration,
        lag=state.promotions - author.promotions,
        pairs=_count(this.pairs),
    )
    # Nothing was promoted since the first of the kept ones, so no lag has grown.
    return (*(each.writers[-1] for each in state.kept), own)


def _count(made: Made) -> int:
    return 0 if made.finished is None else made.report.rows_out


def _collapse(policy: Made) -> str | None:
    """Why the guard stopped training, if it did."""
    if policy.finished is None or COLLAPSED not in policy.report.dropped:
        return None
    return str(storage.read_json(f"{policy.path}/{OUTCOME}")["error"])


def _model_of(made: Made, number: int) -> ModelRef:
    """The model that a step made, or will make."""
    mark = made.output or UNKNOWN
    return ModelRef(path=f"{made.path}/{MODEL}", iteration=number + 1, fingerprint=mark)
