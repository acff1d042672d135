"""Scores steps with a process reward model, on vLLM's pooling runner.

The format is that of Qwen2.5-Math-PRM: system and user turn, then the assistant's steps, each
followed by a step tag; the probability of class 1 at a tag is the reward of the step before it.
Every token's output is asked for (ALL pooling), because then, unlike with STEP pooling, the prefix
may come from vLLM's cache: only the new step is computed, and its tag is the last row.
"""

from typing import Any, Final

from transformers import AutoConfig
from vllm import AsyncEngineArgs, PoolingParams, TokensPrompt
from vllm.config import PoolerConfig

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.scorers import ProcessRewardSettings
from sphere_ray.engines.reward_engine import RewardEngine
from sphere_ray.engines.reward_prompt import NUM_LABELS, RewardPrompt
from sphere_ray.engines.tokens import load_tokenizer
from sphere_ray.engines.vllm_engine import engine_args
from sphere_ray.errors import EngineError, ModelError

TASK: Final = "token_classify"


def scorer_args(spec: EngineSpec) -> AsyncEngineArgs:
    """Arguments of a vLLM engine that serves a process reward model."""
    pooler = PoolerConfig(task=TASK, tok_pooling_type="ALL")
    return engine_args(spec, runner="pooling", pooler_config=pooler)


class ProcessRewardScorer(RewardEngine):
    """The format of Qwen2.5-Math-PRM."""

    def __init__(self, spec: EngineSpec) -> None:
        """Remember what to start; `spec.settings` describe the prompt."""
        if not isinstance(spec.settings, ProcessRewardSettings):
            raise TypeError("a process reward model needs ProcessRewardSettings")
        super().__init__(spec, scorer_args(spec))
        self._settings = spec.settings

    async def start(self) -> None:
        """See `Engine.start`; also checks that the model gives two classes a token."""
        config = AutoConfig.from_pretrained(self.spec.path, revision=self.spec.model.revision)
        if not any("Reward" in name or "Classif" in name for name in config.architectures or ()):
            raise self._wrong_head(f"it is a {', '.join(config.architectures or ['nothing'])}")
        tokenizer = load_tokenizer(self.spec.path, self.spec.model.revision)
        self.prompt = RewardPrompt(
            tokenizer, system=self._settings.system, step_tag=self._settings.step_tag
        )
        await super().start()
        try:
            await self._check_head()
        except BaseException:
            await self.close()
            raise

    async def reward(self, ids: list[int], priority: int) -> float:
        """See `RewardEngine.reward`: class 1 in the last row, that of the step's tag."""
        rows = await self._rows(ids, cached_prefix=True, priority=priority)
        return float(rows[-1][1])

    async def _rows(self, ids: list[int], *, cached_prefix: bool, priority: int = 0) -> Any:
        llm = self.running()
        params = PoolingParams(task=TASK, skip_reading_prefix_cache=not cached_prefix)
        output = await self.last_output(
            llm.encode(
                TokensPrompt(prompt_token_ids=ids), params, self.next_id(), priority=priority
            )
        )
        rows = output.outputs.data
        if rows.ndim != 2 or not 1 <= len(rows) <= len(ids) or rows.shape[1] != NUM_LABELS:
            raise EngineError(
                f"the reward model answered {len(ids)} tokens with shape {tuple(rows.shape)}"
            )
        return rows

    async def _check_head(self) -> None:
        tasks = await self.running().get_supported_tasks()
        if TASK in tasks:
            try:
                await self.reward(self.ids("1 + 1?", ["2"]), 0)
                return
            except EngineError as error:
                await self.check()
                raise self._wrong_head(str(error)) from error
        raise self._wrong_head(f"it offers {', '.join(tasks) or 'nothing'}")

    def _wrong_head(self, found: str) -> ModelError:
        return ModelError(
            f"model {self.spec.path} is no process reward model with {NUM_LABELS} classes a token "
            f"({found}); name one in the format of Qwen2.5-Math-PRM"
        )
