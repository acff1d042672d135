"""A reward source from outside this package: `kind: python` with the name of a class."""

import importlib
import inspect
from typing import Any

from sphere_ray.config.scorers import PythonRewardSettings
from sphere_ray.errors import ConfigError, EngineError, RequestError, SphereError
from sphere_ray.method.ports import Score, Scorer, ScoreRequest
from sphere_ray.reward.sources import RewardSource, Surroundings

INJECTED = ("generator", "grader")
"""Parameters of a constructor that are filled in here: the policy and the grader."""


class PythonSource(RewardSource[PythonRewardSettings]):
    """Makes a scorer of the user's class in every stage actor."""

    def __init__(self, settings: PythonRewardSettings) -> None:
        """Import the class and check it; nothing is made yet.

        Raises:
            ConfigError: there is no such class, it is no scorer, or it does not take the options.
        """
        super().__init__(settings)
        self._class = _imported(settings.object)
        if not inspect.iscoroutinefunction(getattr(self._class, "score", None)):
            raise ConfigError(
                f"engines.scorer.object {settings.object} is no scorer: it needs a method "
                "`async def score(self, request: ScoreRequest) -> tuple[Score, ...]`"
            )
        parameters = inspect.signature(self._class).parameters
        self._injected = [name for name in INJECTED if name in parameters]
        try:
            inspect.signature(self._class).bind(**dict.fromkeys(self._injected), **settings.options)
        except TypeError as error:
            raise ConfigError(
                f"engines.scorer.options do not fit the constructor of {settings.object}: {error}"
            ) from error

    def scorer(self, around: Surroundings) -> Scorer:
        """See `RewardSource.scorer`.

        Raises:
            EngineError: the constructor failed.
        """
        given = {name: getattr(around, name) for name in self._injected}
        try:
            made = self._class(**given, **self.settings.options)
        except Exception as error:
            raise EngineError(f"{self.settings.object} could not be made: {error!r}") from error
        return PythonScorer(made, self.settings.object)


class PythonScorer:
    """The user's scorer, whose own mistakes are errors of the row."""

    def __init__(self, scorer: Scorer, name: str) -> None:
        """Ask `scorer`, and call it `name` in errors."""
        self._scorer = scorer
        self._name = name

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`."""
        try:
            return tuple(await self._scorer.score(request))
        except SphereError:
            raise
        except Exception as error:
            raise RequestError(f"{self._name} failed: {error!r}") from error


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"engines.scorer.object {name} cannot be imported ({error}); install its package "
            "where the run starts and on every node, or put it on PYTHONPATH there"
        ) from error
    if not inspect.isclass(found):
        raise ConfigError(f"engines.scorer.object {name} is no class; name a class that scores")
    return found
