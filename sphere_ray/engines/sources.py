"""Every kind of engine and of reward source: the one place where a new one is registered.

What loads an engine library or a model is imported when such an engine is first built.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sphere_ray.config.engines import EngineSettings, EngineSpec
from sphere_ray.config.scorers import ServedRewardSettings, SourceSettings
from sphere_ray.engines.engine import Engine
from sphere_ray.engines.python_source import PythonSource
from sphere_ray.engines.rollout_value import RolloutValueSource
from sphere_ray.engines.simulated import SimulatedGenerator, SimulatedScorer, SimulatedSource
from sphere_ray.models.source import resolve_model
from sphere_ray.reward.sources import Registry, RewardSource


def source_of(settings: SourceSettings) -> RewardSource[Any]:
    """Make the reward source that the settings describe.

    Raises:
        ConfigError: the settings name an object that is no scorer.
    """
    return SOURCES[settings.kind](settings)


def build_engine(spec: EngineSpec) -> Engine:
    """Construct the engine of `spec`, not yet started."""
    return ENGINES[spec.kind](spec)


def served_spec(name: str, settings: ServedRewardSettings, path: str) -> EngineSpec:
    """Return the engine that serves the reward model in the directory `path`."""
    return EngineSpec(
        kind=settings.kind,
        name=name,
        path=path,
        model=settings.model,
        pool=settings.pool,
        settings=settings.model_copy(update={"trained": None}),
    )


class ServedSource(RewardSource[ServedRewardSettings]):
    """A reward model in a pool of its own."""

    def engine(self, engines: EngineSettings) -> EngineSpec:
        """See `RewardSource.engine`."""
        del engines
        return served_spec("reward", self.settings, resolve_model(self.settings.model))


def _vllm_generator(spec: EngineSpec) -> Engine:
    from sphere_ray.engines.vllm_generator import VllmGenerator

    return VllmGenerator(spec)


def _process_reward(spec: EngineSpec) -> Engine:
    from sphere_ray.engines.process_reward import ProcessRewardScorer

    return ProcessRewardScorer(spec)


def _step_classifier(spec: EngineSpec) -> Engine:
    from sphere_ray.engines.step_classifier import StepClassifier

    return StepClassifier(spec)


def _judge(settings: Any) -> RewardSource[Any]:
    from sphere_ray.engines.judge import JudgeSource  # its client takes a second to import

    return JudgeSource(settings)


ENGINES: Mapping[str, Callable[[EngineSpec], Engine]] = {
    "vllm_generator": _vllm_generator,
    "process_reward": _process_reward,
    "step_classifier": _step_classifier,
    "simulated_generator": SimulatedGenerator,
    "simulated": SimulatedScorer,
}

SOURCES: Registry = {
    "process_reward": ServedSource,
    "step_classifier": ServedSource,
    "rollout_value": RolloutValueSource,
    "judge": _judge,
    "simulated": SimulatedSource,
    "python": PythonSource,
}
