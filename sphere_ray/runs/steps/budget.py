"""The budget step: which problems the next rollouts spend less on, from the last ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.runs.step import Made, Result, Step, Work


@dataclass(frozen=True, kw_only=True)
class BudgetStep(Step):
    """The training problems again in `train/`, each with whether it is settled."""

    kind: ClassVar[str] = "budget"

    rollouts: Made

    def identity(self) -> dict[str, Any]:
        """No setting decides it."""
        return {}

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The last rollouts."""
        return {"rollouts": self.rollouts}

    def run(self, work: Work) -> Result:
        """Look at what was right and wrong."""
        work.session.connect()
        rows = self.rollouts.report.rows_out
        settled = pipeline.mark(self.rollouts.path, f"{work.path}/train")
        work.session.log(
            f"{settled} of {rows} problems were always right or always wrong; "
            "they get method.search.settled_candidates"
        )
        return Result(rows_in=rows, rows_out=rows)
