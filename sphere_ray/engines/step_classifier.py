"""Scores steps with a sequence classifier of two classes, on vLLM's pooling runner.

The reward of a step is the probability of class 1 at its last token. Last-token pooling over a
causal model reads the prefix cache by itself, so a step costs its own tokens.
"""

from typing import Any, Final

from vllm import AsyncEngineArgs, PoolingParams, TokensPrompt
from vllm.config import PoolerConfig

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.scorers import StepClassifierSettings
from sphere_ray.engines.reward_engine import RewardEngine
from sphere_ray.engines.reward_prompt import NUM_LABELS, RewardPrompt
from sphere_ray.engines.tokens import load_tokenizer
from sphere_ray.engines.vllm_engine import engine_args
from sphere_ray.errors import EngineError, ModelError

TASK: Final = "classify"


def classifier_args(spec: EngineSpec) -> AsyncEngineArgs:
    """Arguments of a vLLM engine that serves a last-token classifier."""
    pooler = PoolerConfig(task=TASK, seq_pooling_type="LAST")
    return engine_args(spec, runner="pooling", convert="classify", pooler_config=pooler)


class StepClassifier(RewardEngine):
    """A last-token classifier."""

    def __init__(self, spec: EngineSpec) -> None:
        """Remember what to start; `spec.settings` describe the prompt."""
        if not isinstance(spec.settings, StepClassifierSettings):
            raise TypeError("a step classifier needs StepClassifierSettings")
        super().__init__(spec, classifier_args(spec))
        self._system = spec.settings.system

    async def start(self) -> None:
        """See `Engine.start`; also checks that the model gives two classes."""
        tokenizer = load_tokenizer(self.spec.path, self.spec.model.revision)
        self.prompt = RewardPrompt(tokenizer, system=self._system, step_tag=None)
        await super().start()
        try:
            await self.reward(self.ids("1 + 1?", ["2"]), 0)
        except EngineError as error:
            await self.check()
            await self.close()
            raise ModelError(
                f"model {self.spec.path} is no sequence classifier with {NUM_LABELS} classes "
                f"({error}); name one that was trained as a step classifier"
            ) from error

    async def reward(self, ids: list[int], priority: int) -> float:
        """See `RewardEngine.reward`: class 1 at the last token."""
        llm = self.running()
        output: Any = await self.last_output(
            llm.encode(
                TokensPrompt(prompt_token_ids=ids),
                PoolingParams(task=TASK),
                self.next_id(),
                priority=priority,
            )
        )
        classes = output.outputs.data.flatten()
        if len(classes) != NUM_LABELS:
            raise EngineError(f"the classifier answered with {len(classes)} classes")
        return float(classes[1])
