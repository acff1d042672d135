"""The reference step: token ids of the pairs and their log-probs under the reference model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.records import ModelRef
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.runs.steps.pairs import kept_inputs
from sphere_ray.training.messages import ReferenceRequest


@dataclass(frozen=True, kw_only=True)
class ReferenceStep(Step):
    """A table that training reads instead of asking a second model.

    `kept` are the pairs of earlier iterations, from the same policy, which made nothing better.
    """

    kind: ClassVar[str] = "reference"

    settings: RunSettings
    pairs: Made
    kept: tuple[Made, ...] = ()
    model: ModelRef

    def identity(self) -> dict[str, Any]:
        """What decides token ids and log-probs."""
        training, gap = self.settings.training, self.settings.method.pairs.max_logprob_gap
        return identity(max_length=training.max_length, precision=training.precision, max_gap=gap)

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """Pairs, and the model they are scored by."""
        return {"pairs": self.pairs, **kept_inputs(self.kept), "model": self.model}

    def run(self, work: Work) -> Result:
        """Compute the table on training's workers.

        Raises:
            TrainingError: the workers kept failing.
        """
        pairs = [each for each in (*self.kept, self.pairs) if each.report.rows_out]
        total = sum(each.report.rows_out for each in pairs)
        request = ReferenceRequest(
            model_dir=self.model.path,
            pairs_paths=[each.path for each in pairs],
            output_dir=work.path,
            settings=self.settings.training,
            placement=self.settings.trainer,
            max_logprob_gap=self.settings.method.pairs.max_logprob_gap,
        )
        with work.progress(total, "pairs") as tracker:
            workers = work.session.workers(work.iteration or 0)
            done = workers.run(request, lambda message: tracker.update(done=message.done))
        return Result(
            rows_in=total, rows_out=done.pairs, dropped=dict(done.dropped), tokens=done.tokens
        )
