"""The reward model step: train a process reward model on recorded rollouts, and judge it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.config.scorers import HandoverSettings, TrainedScorerSettings
from sphere_ray.engines.reward_shape import require_layers, require_step_tags
from sphere_ray.errors import CollapseError, RunDirectoryError, TooFewLabelsError
from sphere_ray.method.audit import NOTHING, Audit
from sphere_ray.models.source import model_fingerprint, quietly, resolve_model
from sphere_ray.records import ModelRef
from sphere_ray.reporting.reward_summary import TrainedRewardSummary
from sphere_ray.reward.quality import handover_refusal
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.labelling import HELD_OUT, TRAIN, LabelCounts, judged
from sphere_ray.runs.directory import MODEL
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.training.messages import RewardTrainRequest

OUTCOME = "outcome.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Finished rollouts, and whether a trained reward model scored them."""

    rollouts: Made
    trained: bool


@dataclass(frozen=True, kw_only=True)
class RewardModelStep(Step):
    """A reward model in `model/`, its labels, and in outcome.json its figures.

    Where there were too few labels, or training diverged, there is no model; outcome.json says why.
    Whether a model takes over is decided later, from its figures (`handover`).
    """

    kind: ClassVar[str] = "reward"
    resumable: ClassVar[bool] = True
    leftovers: ClassVar[tuple[str, ...]] = ("_base",)

    settings: RunSettings
    trained: TrainedScorerSettings
    recorded: tuple[Recorded, ...]
    base: ModelRef
    audit: Audit = NOTHING

    def identity(self) -> dict[str, Any]:
        """Seed, and how the reward model is made and stored; not when it takes over."""
        made = ("layers", "shape", "system", "step_tag", "training")
        trained = {name: getattr(self.trained, name) for name in made}
        stored = self.settings.engines.policy.stored_dtype  # the engines serve it as the policy
        return identity(seed=self.settings.seed, trained=trained, stored_dtype=stored)

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The rollouts, the model to begin with, and the verdicts that people corrected."""
        rollouts = {f"rollouts-{n}": each.rollouts for n, each in enumerate(self.recorded)}
        base = reward_base_dir(self.trained, self.base)
        known, audit = base == self.base.path, self.audit.label_inputs()
        return rollouts | {"base": self.base if known else model_fingerprint(base)} | audit

    def run(self, work: Work) -> Result:
        """Label the recorded steps, train, score the held-out steps, and judge.

        Raises:
            ModelError: the base cannot become a reward model.
            RunDirectoryError: the rollouts recorded no labels.
            TrainingError: the workers kept failing.
        """
        counts = self._label(work)
        labels = counts.train + counts.held_out
        with work.progress(0, "steps") as tracker:
            self._prepare(f"{work.path}/_base")
            request = self._request(work)
            try:
                _require_both_sides(counts)
                workers = work.session.workers(work.iteration or 0)
                result = workers.run(request, tracker.on_step)
                outcome = {
                    "problems": result.problems,
                    "labels": result.labels,
                    "steps": result.steps,
                    "loss_first": result.loss_first,
                    "loss_last": result.loss_last,
                } | judged(work.path, request.scores_path)
            except (CollapseError, TooFewLabelsError) as error:
                outcome = _untrained(labels, str(error))
        storage.write_json(outcome, f"{work.path}/{OUTCOME}")
        model = model_fingerprint(request.output_dir) if outcome["held_out"] else None
        return Result(rows_in=labels, rows_out=outcome["labels"], output=model)

    def _label(self, work: Work) -> LabelCounts:
        """Write the labelled steps; returns how many are on each side."""
        work.session.connect()
        sources = [(each.rollouts.path, each.trained) for each in self.recorded]
        share, seed = self.trained.training.held_out, self.settings.seed
        counts = pipeline.label(sources, work.path, share=share, seed=seed, audit=self.audit)
        if not (counts.train + counts.held_out):
            raise RunDirectoryError(
                f"{', '.join(path for path, _ in sources)}: no step has a recorded value, so there "
                "is nothing to train a reward model on; roll out with "
                "method.search.strategy: pruned_steps"
            )
        return counts

    def _prepare(self, target: str) -> None:
        """Make the untrained reward model; base, settings and seed alone decide it."""
        from sphere_ray.engines.reward_base import prepare_classifier, prepare_step_tags

        base = Path(reward_base_dir(self.trained, self.base))
        layers, seed = self.trained.layers, self.settings.seed
        storage.remove(target)
        with quietly():
            if self.trained.shape == "classifier":
                prepare_classifier(base, Path(target), seed=seed, layers=layers)
            else:
                tag = self.trained.step_tag
                prepare_step_tags(base, Path(target), step_tag=tag, seed=seed, layers=layers)

    def _request(self, work: Work) -> RewardTrainRequest:
        return RewardTrainRequest(
            model_dir=f"{work.path}/_base",
            train_path=f"{work.path}/{TRAIN}",
            held_out_path=f"{work.path}/{HELD_OUT}",
            output_dir=f"{work.path}/{MODEL}",
            scores_path=f"{work.path}/scores.parquet",
            seed=self.settings.seed,
            trained=self.trained,
            placement=self.settings.trainer,
            stored_dtype=self.settings.engines.policy.stored_dtype,
            fingerprint=work.fingerprint,
        )


def handover(directory: str, schedule: HandoverSettings) -> TrainedRewardSummary:
    """The figures of a finished reward model step, and why the model does not take over."""
    outcome: TrainedRewardSummary = storage.read_json(f"{directory}/{OUTCOME}")
    if outcome["held_out"] is not None:
        outcome["refusal"] = handover_refusal(outcome["held_out"], schedule) or None
    return outcome


def reward_base_dir(trained: TrainedScorerSettings, policy: ModelRef) -> str:
    """Where the model lies that the reward model begins as.

    Raises:
        ModelError: it is not there, lacks something, or cannot become one of this shape.
    """
    path = policy.path if trained.base == "policy" else resolve_model(trained.base)
    if trained.shape == "step_tags":
        require_step_tags(Path(path))
    if trained.layers is not None:
        require_layers(Path(path), trained.layers, trained.shape)
    return path


def _require_both_sides(counts: LabelCounts) -> None:
    """Raise TooFewLabelsError if every problem fell on the same side of the split."""
    if not counts.train or not counts.held_out:
        side = "was held out" if counts.train else "is left to train on"
        raise TooFewLabelsError(f"no problem {side}; roll out more problems")


def _untrained(labels: int, refusal: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("loss_first", "loss_last", "held_out"))
    return {"problems": 0, "labels": labels, "steps": 0, **unknown, "refusal": refusal}
