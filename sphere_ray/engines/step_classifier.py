"""Scores steps with a sequence classifier of two classes, on vLLM's pooling runner.

The reward of a step is the probability of class 1 at its last token. Last-token pooling over a
causal model reads the prefix cache by itself, so a step costs its own tokens.
"""

from typing import Any, Final

from vllm import AsyncEngineArgs, PoolingParams, TokensPrompt
from vllm.config import PoolerConfig

from sphere_ray.config.scorers import StepClassifierSettings
from sphere_ray.engines.engine import EngineSpec, Request
from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.engines.tokens import load_tokenizer
from sphere_ray.engines.vllm_engine import VllmEngine, engine_args
from sphere_ray.errors import EngineError, ModelError, RequestError
from sphere_ray.method.ports import Score, ScoreRequest
from sphere_ray.method.together import together

TASK: Final = "classify"
NUM_LABELS = 2


def classifier_args(spec: EngineSpec) -> AsyncEngineArgs:
    """Arguments of a vLLM engine that serves a last-token classifier."""
    pooler = PoolerConfig(task=TASK, seq_pooling_type="LAST")
    return engine_args(spec, runner="pooling", convert="classify", pooler_config=pooler)


class StepClassifier(VllmEngine):
    """The port `Scorer`, and an `Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        """Remember what to start; `spec.settings` describe the prompt."""
        if not isinstance(spec.settings, StepClassifierSettings):
            raise TypeError("a step classifier needs StepClassifierSettings")
        super().__init__(spec, classifier_args(spec))
        self._system = spec.settings.system
        self._prompt: RewardPrompt | None = None

    async def start(self) -> None:
        """See `Engine.start`; also checks that the model gives two classes."""
        tokenizer = load_tokenizer(self.spec.path, self.spec.model.revision)
        self._prompt = RewardPrompt(tokenizer, system=self._system, step_tag=None)
        await super().start()
        try:
            await self._reward("1 + 1?", ["2"], 0)
        except EngineError as error:
            await self.check()
            await self.close()
            raise ModelError(
                f"model {self.spec.path} is no sequence classifier with {NUM_LABELS} classes "
                f"({error}); name one that was trained as a step classifier"
            ) from error

    async def handle(self, request: Request) -> tuple[Score, ...]:
        """See `Engine.handle`."""
        if not isinstance(request, ScoreRequest):
            raise EngineError(f"a scorer was sent a {type(request).__name__}")
        return await self.score(request)

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`; each candidate is one request that reuses the cached prefix."""
        prefix = [step.text for step in request.prefix]
        rewards = await together(
            self._reward(request.problem.question, [*prefix, candidate.text], request.priority)
            for candidate in request.candidates
        )
        return tuple(Score(reward=reward) for reward in rewards)

    async def _reward(self, question: str, steps: list[str], priority: int) -> float:
        llm = self.running()
        if self._prompt is None:
            raise EngineError(f"the classifier {self.spec.path} was not started")
        ids = self._prompt.ids(question, steps)
        if len(ids) > self.spec.model.max_model_len:
            raise RequestError(
                f"a chain of {len(ids)} tokens exceeds the classifier's max_model_len "
                f"({self.spec.model.max_model_len})"
            )
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
