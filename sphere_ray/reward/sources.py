"""What a reward source is: it says which engine it needs, gives a scorer, and counts its cost.

The sources themselves are listed in one place, `sphere_ray.engines.sources`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from sphere_ray.config.engines import EngineSettings, EngineSpec
from sphere_ray.config.method import SearchSettings
from sphere_ray.config.scorers import SourceSettings
from sphere_ray.method.ports import Generator, Grader, Progress, Scorer
from sphere_ray.records import PoolUse

S = TypeVar("S", bound=SourceSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a reward source may use in a stage actor.

    `engine` asks the pool of the engine that the source named, and is None if it named none.
    `stage_actors` is the number of stage actors of the run, which share limits such as a rate.
    """

    engine: Scorer | None
    generator: Generator
    grader: Grader
    search: SearchSettings
    progress: Progress
    stage_actors: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Tokens that a source decoded, and prompt tokens that it computed (not found in a cache)."""

    decoded: int
    prefilled: int


class RewardSource(Generic[S]):
    """One reward source, made from its settings; the driver and every stage actor make their own.

    The constructor may check what the settings name, so that a mistake ends the run at its start.
    """

    def __init__(self, settings: S) -> None:
        """Remember the settings."""
        self.settings = settings

    def engine(self, engines: EngineSettings) -> EngineSpec | None:
        """Return the engine that has to serve the source; None if it needs none of its own.

        Raises:
            ModelError: the source's model is not there, or lacks something.
        """
        del engines
        return None

    def scorer(self, around: Surroundings) -> Scorer:
        """Return the scorer of a stage actor: by default, the pool of the source's engine."""
        if around.engine is None:
            raise NotImplementedError(f"{self.settings.kind} has neither an engine nor a scorer")
        return around.engine

    def cost(self, counts: Mapping[str, int | float], pools: Sequence[PoolUse]) -> Cost:
        """Return what scoring cost: by default, what all engine pools did meanwhile.

        `counts` are the sums of `Progress.add`, `pools` what each pool did while only this source
        was at work.
        """
        del counts
        return Cost(
            decoded=sum(pool.generated_tokens for pool in pools),
            prefilled=sum(pool.prefix_queries - pool.prefix_hits for pool in pools),
        )


Registry: TypeAlias = Mapping[str, Callable[[Any], RewardSource[Any]]]
"""The `kind` of a source's settings -> what makes the source from them."""
