"""The own reward model at work, and the source before it looking over its shoulder."""

from dataclasses import dataclass, replace

from sphere_ray.errors import EngineError
from sphere_ray.method.ports import Score, Scorer, ScoreRequest
from sphere_ray.method.seeds import falls_within
from sphere_ray.method.together import together


@dataclass(frozen=True, slots=True)
class AuditedScorer:
    """The port `Scorer`: rewards are those of `own`; for a `share` of requests `source` judges too.

    A request holds all siblings of a step, so that rewards of two sources never compete. What the
    source says is kept beside the reward (`Score.audit`, and its outcomes): fresh labels for the
    next own model, and the figures of agreement between the two.
    """

    own: Scorer
    source: Scorer
    share: float

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`."""
        if not falls_within(self.share, request.seed, "audit"):
            return await self.own.score(request)
        scores, audits = await together([self.own.score(request), self.source.score(request)])
        if len(scores) != len(audits):
            raise EngineError(f"two sources gave {len(scores)} and {len(audits)} rewards")
        return tuple(
            replace(
                score,
                audit=audit.reward,
                values=audit.values,
                tokens=score.tokens + audit.tokens,
            )
            for score, audit in zip(scores, audits, strict=True)
        )
