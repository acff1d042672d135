"""Score with the trained reward model, and re-score a sample with the original source."""

from dataclasses import dataclass, replace

from sphere_ray.errors import EngineError
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.ports import Score, Scorer, ScoreRequest
from sphere_ray.method.seeds import falls_within


@dataclass(frozen=True, slots=True)
class AuditedScorer:
    """The port `Scorer`: `trained` gives the rewards; `source` audits a `share` of the requests.

    A request holds all siblings of a step, so rewards of two sources never compete. The reward of
    `source` and its outcomes are kept beside the reward of `trained`: they are fresh labels for
    the next trained model, and show how far the two agree.
    """

    trained: Scorer
    source: Scorer
    share: float

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`."""
        if not falls_within(self.share, request.seed, "audit"):
            return await self.trained.score(request)
        scores, audits = await gather_or_cancel(
            [self.trained.score(request), self.source.score(request)]
        )
        if len(scores) != len(audits):
            raise EngineError(f"two sources gave {len(scores)} and {len(audits)} rewards")
        return tuple(
            replace(
                score,
                audit=audit.reward,
                values=audit.values,
                completions=audit.completions,
                tokens=score.tokens + audit.tokens,
            )
            for score, audit in zip(scores, audits, strict=True)
        )
