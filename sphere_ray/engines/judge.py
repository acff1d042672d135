"""A judge: a language model behind an OpenAI-compatible endpoint that grades steps.

One request holds all siblings of a step. A refusal, a nonsensical answer, or an endpoint that is
busy, failing or silent is an error of the row, never a score.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from sphere_ray.config.scorers import JudgeSettings
from sphere_ray.engines.endpoint import EndpointClient
from sphere_ray.errors import RequestError
from sphere_ray.method.ports import Progress, Score, Scorer, ScoreRequest
from sphere_ray.records import PoolUse
from sphere_ray.reward.sources import Cost, RewardSource, Surroundings

SCALE = 10
"""Grades are whole numbers from 0 to this; rewards are their tenth."""
INSTRUCTION = """You grade steps of solutions to mathematical problems.
Given are a problem, the steps so far, and {n} alternative next steps. For each alternative, in
order, give a whole number from 0 to 10: how likely is it that a careful student who goes on from
there reaches the right answer? 10: the step and all before it are right and useful. 0: a mistake
that cannot lead to the right answer.
Answer with JSON alone: {{"grades": [...]}}, exactly {n} numbers."""


class _Answer(BaseModel):
    """What the judge must answer."""

    model_config = {"extra": "forbid", "strict": True}

    grades: list[int] = Field(min_length=1)


class JudgeSource(RewardSource[JudgeSettings]):
    """Scores by asking the endpoint; its cost is what the endpoint counts."""

    def scorer(self, around: Surroundings) -> Scorer:
        """See `RewardSource.scorer`."""
        return JudgeScorer(self.settings.shared_by(around.stage_actors), around.progress)

    def cost(self, counts: Mapping[str, int | float], pools: Sequence[PoolUse]) -> Cost:
        """See `RewardSource.cost`."""
        del pools
        return Cost(
            decoded=int(counts.get("judge_output_tokens", 0)),
            prefilled=int(counts.get("judge_input_tokens", 0)),
        )


class JudgeScorer:
    """The port `Scorer`; it runs in the stage actors and needs no pool of its own."""

    def __init__(self, settings: JudgeSettings, progress: Progress) -> None:
        """Remember the endpoint, and count requests and tokens in `progress`; nothing is sent yet.

        Raises:
            EngineError: the environment variable of the key is not set.
        """
        self._settings = settings
        self._endpoint = EndpointClient(
            settings, progress, role="judge", setting="engines.scorer.base_url"
        )

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`.

        Raises:
            RequestError: the judge refused, failed after all retries, or gave no grades.
            DeadlineExceededError: it took too long, retries included.
            EngineError: nothing listens at the endpoint, or it refuses the key or the model.
        """
        body = self._body(request)
        known = await self._endpoint.recall(body)
        text = await self._ask(body) if known is None else known
        grades = _grades(text, len(request.candidates))
        if known is None:
            await self._endpoint.keep(body, text)
        return tuple(Score(reward=grade / SCALE) for grade in grades)

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()

    def _body(self, request: ScoreRequest) -> dict[str, Any]:
        number = len(request.candidates)
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": INSTRUCTION.format(n=number)},
                {"role": "user", "content": _question(request)},
            ],
            "temperature": self._settings.temperature,
            "max_tokens": self._settings.max_tokens,
        }
        if self._settings.structured:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "grades", "schema": _schema(number), "strict": True},
            }
        return body

    async def _ask(self, body: dict[str, Any]) -> str:
        choice = await self._endpoint.ask(body)
        if choice.finish_reason != "stop" or not choice.message.content:
            reason = choice.message.refusal or choice.finish_reason
            raise RequestError(f"the judge gave no grades ({reason})")
        return str(choice.message.content)


def _question(request: ScoreRequest) -> str:
    so_far = "".join(step.text for step in request.prefix).strip() or "(none)"
    alternatives = "\n\n".join(
        f"Alternative {number}:\n{candidate.text.strip()}"
        for number, candidate in enumerate(request.candidates, start=1)
    )
    return f"Problem:\n{request.problem.question}\n\nSteps so far:\n{so_far}\n\n{alternatives}"


def _schema(number: int) -> dict[str, Any]:
    grades = {
        "type": "array",
        "items": {"type": "integer", "enum": list(range(SCALE + 1))},
        "minItems": number,
        "maxItems": number,
    }
    return {
        "type": "object",
        "properties": {"grades": grades},
        "required": ["grades"],
        "additionalProperties": False,
    }


def _grades(text: str, number: int) -> list[int]:
    """Parse an answer.

    Raises:
        RequestError: it is anything but `number` whole grades from 0 to `SCALE`.
    """
    try:
        grades = _Answer.model_validate_json(text).grades
    except ValidationError as error:
        raise RequestError(
            f"the judge answered {text[:80]!r} instead of {number} grades"
        ) from error
    if len(grades) != number or not all(0 <= grade <= SCALE for grade in grades):
        raise RequestError(f"the judge answered {text[:80]!r} instead of {number} grades")
    return grades
