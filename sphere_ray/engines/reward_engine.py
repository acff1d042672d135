"""The common part of reward models on vLLM's pooling runner: each candidate is one request."""

from abc import ABC, abstractmethod

from sphere_ray.engines.engine import Request
from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.engines.vllm_engine import VllmEngine
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.ports import Score, ScoreRequest


class RewardEngine(VllmEngine, ABC):
    """The port `Scorer`, and an `Engine`; subclasses read the reward of one step."""

    prompt: RewardPrompt | None = None

    async def handle(self, request: Request) -> tuple[Score, ...]:
        """See `Engine.handle`."""
        if not isinstance(request, ScoreRequest):
            raise EngineError(f"a scorer was sent a {type(request).__name__}")
        return await self.score(request)

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`; each candidate is one request that reuses the cached prefix."""
        prefix = [step.text for step in request.prefix]
        rewards = await gather_or_cancel(
            self.reward(
                self.ids(request.problem.question, [*prefix, candidate.text]), request.priority
            )
            for candidate in request.candidates
        )
        return tuple(Score(reward=reward) for reward in rewards)

    @abstractmethod
    async def reward(self, ids: list[int], priority: int) -> float:
        """Return the reward of the step that ends with the last of `ids`."""

    def ids(self, question: str, steps: list[str]) -> list[int]:
        """Return the token ids of a question and steps.

        Raises:
            RequestError: they are more than the model takes.
        """
        ids = self.format().ids(question, steps)
        if len(ids) > self.spec.model.max_model_len:
            raise RequestError(
                f"a chain of {len(ids)} tokens exceeds the reward model's max_model_len "
                f"({self.spec.model.max_model_len})"
            )
        return ids

    def format(self) -> RewardPrompt:
        """Return the format of the model's input; `start` sets it."""
        if self.prompt is None:
            raise EngineError(f"the reward model {self.spec.path} was not started")
        return self.prompt
