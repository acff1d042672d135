"""The pairs step: chains become preference pairs, streamed over the rollouts without an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.method.audit import NOTHING, Audit
from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.runs.step import Made, Result, Step, Work


@dataclass(frozen=True, kw_only=True)
class PairsStep(Step):
    """Preference pairs in shards, and in `dropped/` what a gate refused, with the reason.

    A pair that is among the `kept` ones, which are trained on too, is dropped as a duplicate.
    """

    kind: ClassVar[str] = "pairs"

    settings: RunSettings
    rollouts: Made
    kept: tuple[Made, ...] = ()
    audit: Audit = NOTHING

    def identity(self) -> dict[str, Any]:
        """The pair rules; the prompts, which pairs repeat, come with the rollouts."""
        return identity(pairs=self.settings.method.pairs)

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The rollouts, the kept pairs, whose ids are taken, and what people decided."""
        return {"rollouts": self.rollouts, **kept_inputs(self.kept), **self.audit.inputs()}

    def run(self, work: Work) -> Result:
        """Build the pairs and apply the gate that looks across problems."""
        work.session.connect()
        rows = self.rollouts.report.rows_out
        with work.progress(rows, "problems") as tracker:
            known, method = [each.path for each in self.kept], self.settings.method
            counts = pipeline.pair(self.rollouts.path, work.path, method, known, self.audit)
            kept, dropped = sum(counts.kept.values()), counts.dropped
            tracker.update(done=rows, pairs=kept, details=counts.details)
        return Result(rows_in=kept + sum(dropped.values()), rows_out=kept, dropped=dropped)


def kept_inputs(kept: Sequence[Made]) -> dict[str, Made]:
    """The pairs that are kept from earlier iterations, as inputs of a step."""
    return {f"kept/{number}": pairs for number, pairs in enumerate(kept)}
