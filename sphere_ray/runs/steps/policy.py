"""The policy step: DPO on the pairs, from the policy that made them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.errors import CollapseError
from sphere_ray.models.source import model_fingerprint
from sphere_ray.records import ModelRef, Writer
from sphere_ray.runs.directory import MODEL
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.training.messages import TrainRequest

COLLAPSED = "collapsed"
OUTCOME = "training.json"


@dataclass(frozen=True, kw_only=True)
class PolicyStep(Step):
    """A model directory in `model/`, and in training.json what every optimizer step measured.

    Where the guard stopped training there is no model, and training.json says why. The manifest
    names the `writers` of the pairs.
    """

    kind: ClassVar[str] = "policy"
    resumable: ClassVar[bool] = True

    settings: RunSettings
    reference: Made
    policy: ModelRef
    learning_rate: float
    writers: tuple[Writer, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Seed, training settings and how the policy is stored; a refused one halves the rate."""
        training = self.settings.training.model_copy(update={"learning_rate": self.learning_rate})
        stored = self.settings.engines.policy.stored_dtype
        decisive = identity(seed=self.settings.seed, training=training, stored_dtype=stored)
        del decisive["training.reference"]  # the reference table is an input
        return decisive

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The reference table, and the model to begin with."""
        return {"reference": self.reference, "policy": self.policy}

    def run(self, work: Work) -> Result:
        """Train on training's workers; an interrupted training continues at its last checkpoint.

        Raises:
            TrainingError: the workers kept failing.
        """
        request = TrainRequest(
            model_dir=self.policy.path,
            reference_path=self.reference.path,
            output_dir=f"{work.path}/{MODEL}",
            seed=self.settings.seed,
            learning_rate=self.learning_rate,
            settings=self.settings.training,
            placement=self.settings.trainer,
            stored_dtype=self.settings.engines.policy.stored_dtype,
            fingerprint=work.fingerprint,
        )
        outcome, model = self._train(work, request)
        storage.write_json(outcome, f"{work.path}/{OUTCOME}")
        pairs = self.reference.report.rows_out
        return Result(
            rows_in=pairs,
            rows_out=pairs if model else 0,
            dropped={} if model else {COLLAPSED: pairs},
            writers=self.writers,
            output=model,
        )

    def _train(self, work: Work, request: TrainRequest) -> tuple[dict[str, Any], str | None]:
        with work.progress(0, "steps") as tracker:
            try:
                result = work.session.workers(work.iteration or 0).run(request, tracker.on_step)
            except CollapseError as error:
                work.session.log(f"training was stopped: {error}")
                return {"error": str(error)}, None
        work.session.log(f"the policy keeps {result.update_survival:.1%} of its update")
        if result.restarted_because:
            work.session.log(f"training started anew: {result.restarted_because}")
        stage = request.settings.zero_stage_on(request.placement)
        sharded = {"workers": request.placement.workers, "zero_stage": stage}
        return asdict(result) | sharded, model_fingerprint(request.output_dir)


@dataclass(frozen=True, kw_only=True)
class HalfRateStep(PolicyStep):
    """The same at half the rate, where the first training made nothing better."""

    kind: ClassVar[str] = "half_rate"
