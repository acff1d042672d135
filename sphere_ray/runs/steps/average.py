"""The step that makes the model halfway between a policy and the one trained from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray.models.source import model_fingerprint
from sphere_ray.records import ModelRef
from sphere_ray.runs.directory import MODEL
from sphere_ray.runs.step import Made, Result, Step, Work


@dataclass(frozen=True, kw_only=True)
class AverageStep(Step):
    """A model directory in `model/`; made in the driver, without a GPU."""

    kind: ClassVar[str] = "halfway"

    start: ModelRef
    trained: Made

    def identity(self) -> dict[str, Any]:
        """Nothing but the two models decides their mean."""
        return {}

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The two models."""
        return {"start": self.start, "trained": self.trained}

    def run(self, work: Work) -> Result:
        """Average the weights.

        Raises:
            ModelError: the two have other weights.
        """
        from sphere_ray.training.average import average

        target = f"{work.path}/{MODEL}"
        average(self.start.path, f"{self.trained.path}/{MODEL}", target)
        return Result(rows_in=2, rows_out=1, output=model_fingerprint(target))
