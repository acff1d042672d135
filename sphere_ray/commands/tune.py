"""Choosing settings of training: several over the pairs that a run has, the losers stopped early.

Works beside the run, in a directory of its own. It makes no rollouts and asks no test problem.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import yaml

from sphere_ray import storage
from sphere_ray.commands.train_prm import settings_of_run
from sphere_ray.commands.trials import Candidate, Trials
from sphere_ray.config import RunSettings
from sphere_ray.config.documents import parse_yaml
from sphere_ray.errors import ConfigError, RunDirectoryError
from sphere_ray.evolution.decision import Contestant, Validation
from sphere_ray.method.halving import DEFAULT, halve
from sphere_ray.pools.roles import base_model, policy_alone
from sphere_ray.provenance import fingerprint
from sphere_ray.records import ModelRef
from sphere_ray.reporting.tune_summary import TuneSummary
from sphere_ray.runs.directory import FinishedStep, Run, WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor, Made, Planner
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import PolicyStep
from sphere_ray.runs.steps.reference import ReferenceStep

SUMMARY = "tune.json"
_EXAMPLE = "--grid training.learning_rate=1e-5,3e-5"


def tune(
    run_dir: str,
    grid: Sequence[str],
    overrides: Sequence[str],
    *,
    iteration: int = 0,
    num_trials: int | None = None,
) -> TuneSummary:
    """Train the settings of a grid (each `KEY=VALUE,VALUE`) over an iteration's pairs; choose one.

    The settings of the run, changed by `overrides`, are the default, which is always tried.
    `num_trials` draws that many of the others by the run's seed. Work is kept in RUN-tune, with the
    result in tune.json, so the same call continues.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    source = Run.open(run_dir)
    settings = settings_of_run(source, f"{source.path}-tune", overrides)
    ground = _Ground.of(source, settings, iteration)
    candidates = _candidates(ground, settings, _combinations(grid), overrides)
    if num_trials is not None and num_trials < len(candidates) - 1:
        drawn = random.Random(settings.seed).sample(range(1, len(candidates)), num_trials)
        candidates = [candidates[number] for number in (DEFAULT, *sorted(drawn))]
    needs = settings.model_copy(update={"engines": policy_alone(settings.engines)})
    with (
        WritableRun.create(settings.run_dir, settings) as run,
        Session(run=run, needs=needs) as session,
    ):
        executor = Executor(session, source)
        trials = Trials(
            candidates=candidates,
            overrides=overrides,
            policy=ground.policy,
            validation=Validation(settings, ground.problems, executor.make),
            make=executor.make,
            log=session.log,
        )
        chosen = halve(len(candidates), trials.rung)
        session.finish_training(iteration)
        summary = trials.summary(chosen, known={s.manifest.fingerprint for s in source.variants})
        paths = [plan.path for plan in executor.plans]
        run.note_current(list(dict.fromkeys(paths)), all_of_them=True)
        storage.write_json(summary, run.file(SUMMARY))
    return summary


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """What every candidate is trained from and compared with: an iteration of a run."""

    run: Run
    iteration: int
    base: ModelRef
    policy: Contestant
    problems: Made
    rollouts: Made
    kept: tuple[Made, ...]
    """Pairs of earlier iterations by the same policy, which the run trains on, too."""

    @classmethod
    def of(cls, run: Run, settings: RunSettings, iteration: int) -> "_Ground":
        """Find it.

        Raises:
            RunDirectoryError: the run has not got that far, or not under these settings.
        """
        problems, rollouts = run.step("problems"), run.step("rollouts", iteration)
        if problems is None or rollouts is None:
            raise RunDirectoryError(
                f"{run.path} has no finished rollouts of iteration {iteration}; let it get that "
                "far, or choose another --iteration"
            )
        base = base_model(settings.engines)
        began = run.step(PolicyStep.kind, iteration) or rollouts
        ground = cls(
            run=run,
            iteration=iteration,
            base=base,
            policy=_policy_of(run, base, began),
            problems=_made(problems),
            rollouts=_made(rollouts),
            kept=tuple(_kept(run, began, iteration)),
        )
        reference, reason = ground.reference(settings)
        if reference.finished is None:
            raise RunDirectoryError(
                f"{run.path} has no finished pairs and reference table of iteration {iteration} "
                f"for these settings ({reason}); let the run make them, or choose another "
                "--iteration"
            )
        if reference.report.rows_out < settings.training.min_pairs:
            raise RunDirectoryError(
                f"{run.path} has {reference.report.rows_out} pairs in iteration {iteration}, fewer "
                f"than training.min_pairs ({settings.training.min_pairs}); choose another "
                "--iteration"
            )
        return ground

    def reference(self, settings: RunSettings) -> tuple[Made, str]:
        """The run's reference table for these settings, or why it has none."""
        planner = Planner(self.run)
        common: Any = {"settings": settings, "kept": self.kept, "iteration": self.iteration}
        anchor = self.base if settings.training.reference == "initial" else self.policy.model
        pairs = planner.make(PairsStep(rollouts=self.rollouts, **common))
        made = planner.make(ReferenceStep(pairs=pairs, model=anchor, **common))
        return made, next((plan.reason for plan in planner.plans if plan.finished is None), "")

    def training(self, settings: RunSettings) -> PolicyStep:
        """The training that the run itself would do with these settings."""
        return PolicyStep(
            settings=settings,
            reference=self.reference(settings)[0],
            policy=self.policy.model,
            learning_rate=settings.training.learning_rate,
            iteration=self.iteration,
        )


def _policy_of(run: Run, base: ModelRef, began: FinishedStep) -> Contestant:
    """The policy that a training (or rollouts) began with, under the name the run asked it by.

    Raises:
        RunDirectoryError: it is not there any more.
    """
    wanted = began.manifest.inputs["policy"]
    for step in run.steps:
        model = step.model
        if model is not None and model.fingerprint == wanted:
            name = "trained" if step.kind == PolicyStep.kind else step.kind
            return Contestant(model=model, name=name, iteration=step.iteration)
    if base.fingerprint != wanted:
        raise RunDirectoryError(
            f"the model that made {began.path} is gone or has changed; restore its weights"
        )
    return Contestant(model=base)


def _kept(run: Run, began: FinishedStep, iteration: int) -> Iterator[Made]:
    """Pairs of earlier iterations that the training read; without one, those by its policy."""
    policy = began.manifest.inputs["policy"]
    read = {writer.iteration for writer in began.manifest.report.writers}
    for number in range(iteration):
        earlier, pairs = run.step("rollouts", number), run.step("pairs", number)
        if earlier and pairs:
            same = earlier.manifest.inputs["policy"] == policy
            if number in read or (same and not read):
                yield _made(pairs)


def _made(step: FinishedStep) -> Made:
    return Made(name=step.name, path=step.path, finished=step)


def _combinations(grid: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the grid's values, as overrides.

    Raises:
        ConfigError: there is none, or a value is no YAML.
    """
    found = dict[str, list[str]]()
    for axis in grid:
        key, _, text = axis.partition("=")
        try:
            values = parse_yaml(f"[{text}]")  # groups and lists have commas of their own
        except yaml.YAMLError:
            values = None
        if not key.strip() or not values:
            raise ConfigError(f"--grid {axis}: expected KEY=VALUE,VALUE as in {_EXAMPLE}")
        texts = (value if isinstance(value, str) else json.dumps(value) for value in values)
        found.setdefault(key.strip(), []).extend(f"{key.strip()}={text}" for text in texts)
    if not found:
        raise ConfigError(f"tune needs a grid of settings to try; give one as in {_EXAMPLE}")
    return list(product(*found.values()))


def _candidates(
    ground: _Ground,
    settings: RunSettings,
    combinations: Sequence[tuple[str, ...]],
    overrides: Sequence[str],
) -> list[Candidate]:
    """The default, then each other training that the combinations make, low rates first.

    Raises:
        ConfigError: a key is unknown or decides more than the training, or a value is wrong.
    """
    default = Candidate(overrides=(), training=ground.training(settings))
    found = {fingerprint(default.training.identity()): default}
    for combination in combinations:
        try:
            changed = settings_of_run(ground.run, settings.run_dir, [*overrides, *combination])
        except ConfigError as error:
            raise ConfigError(str(error).replace("--set ", "--grid ", 1)) from None
        training = ground.training(changed)
        keys = [override.partition("=")[0] for override in combination]
        others = [key for key in keys if not _decides(key, training)]
        if others or training.reference.output != default.training.reference.output:
            raise ConfigError(
                f"--grid {' '.join(others or combination)}: tune trains over the pairs and the "
                "reference table that the run has, so a grid takes keys below training. that "
                "decide nothing but the training, for example learning_rate and loss.beta"
            )
        candidate = Candidate(overrides=combination, training=training)
        found.setdefault(fingerprint(training.identity()), candidate)
    others_found = sorted(list(found.values())[1:], key=lambda each: each.training.learning_rate)
    if not others_found:
        raise ConfigError("the grid holds nothing but the run's own settings; add other values")
    return [default, *others_found]


def _decides(key: str, training: PolicyStep) -> bool:
    """Whether a training is another one with another value of this key, or of a key in it."""
    names = training.identity()
    return key.startswith("training.") and any(f"{name}.".startswith(f"{key}.") for name in names)
