"""A reward source as a user writes one.

It is named in a configuration by `kind: python, object: tests.rollout.short_steps:ShortSteps`.
"""

from sphere_ray.method.ports import Generator, Score, ScoreRequest


class ShortSteps:
    """Prefers short steps: a step of `limit` characters or more is worth nothing."""

    def __init__(self, *, limit: int, generator: Generator | None = None) -> None:
        self.limit = limit
        self.generator = generator

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        return tuple(
            Score(reward=max(0.0, 1 - len(candidate.text) / self.limit))
            for candidate in request.candidates
        )


class Broken(ShortSteps):
    """Fails at every step."""

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        raise KeyError(request.problem.problem_id)


class Mute:
    """No scorer."""


def function() -> None:
    """No class."""
