"""A judge: a language model behind an OpenAI-compatible endpoint that grades steps.

One request holds all siblings of a step. Answers are kept on disk by content, so nothing is paid
for twice. A refusal, a nonsensical answer, or an endpoint that is busy, failing or silent is an
error of the row, never a score. Only an endpoint that can serve no request ends the run.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiolimiter import AsyncLimiter
from openai import APIError, APITimeoutError, AsyncOpenAI
from pydantic import BaseModel, Field, ValidationError

from sphere_ray.config.scorers import JudgeSettings
from sphere_ray.errors import DeadlineExceededError, EngineError, RequestError
from sphere_ray.method.ports import Progress, Score, Scorer, ScoreRequest
from sphere_ray.records import PoolUse
from sphere_ray.reward.sources import Cost, RewardSource, Surroundings

SCALE = 10
"""Grades are whole numbers from 0 to this; rewards are their tenth."""
_MINUTE = 60.0
_UNUSABLE = {401: "refuses the key", 403: "refuses the key", 404: "does not know the model"}
"""Status codes that every later request would get, too."""
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
        key = "none"
        if settings.api_key_env is not None:
            key = os.environ.get(settings.api_key_env, "")
            if not key:
                raise EngineError(
                    f"the judge's key is looked for in ${settings.api_key_env}, which is not set "
                    "where the stages run; set it in the job's runtime environment"
                )
        self._settings = settings
        self._key = key
        self._client: AsyncOpenAI | None = None
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        # One start at a time, so that starts are spread evenly over a minute.
        rate = settings.requests_per_minute
        self._turns = None if rate is None else AsyncLimiter(1, _MINUTE / rate)
        self._progress = progress

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`.

        Raises:
            RequestError: the judge refused, failed after all retries, or gave no grades.
            DeadlineExceededError: it took too long, retries included.
            EngineError: nothing listens at the endpoint, or it refuses the key or the model.
        """
        body = self._body(request)
        file = self._cache_file(body)
        # Files may lie on a network mount, where reading one would hold up all other requests.
        text = None if file is None else await asyncio.to_thread(_read, file)
        cached = text is not None
        if text is None:
            text = await self._ask(body)
        grades = _grades(text, len(request.candidates))
        if cached:
            self._progress.add(judge_cached=1)
        elif file is not None:
            await asyncio.to_thread(_write, text, file)
        return tuple(Score(reward=grade / SCALE) for grade in grades)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

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
        settings = self._settings
        if self._client is None:  # made in the loop that uses it
            self._client = AsyncOpenAI(
                base_url=settings.base_url,
                api_key=self._key,
                timeout=settings.timeout_s,
                max_retries=settings.max_retries,
            )
        async with self._slots:
            if self._turns is not None:
                await self._turns.acquire()
            try:
                response = await self._client.chat.completions.create(**body)
            except APITimeoutError as error:
                raise DeadlineExceededError(
                    f"the judge at {settings.base_url} did not answer within "
                    f"{settings.timeout_s:g} s, asked {settings.max_retries + 1} times"
                ) from error
            except APIError as error:
                raise _failure(settings.base_url, error) from error
            except ValueError as error:
                raise RequestError(f"the judge's answer is no JSON ({error})") from error
        self._progress.add(judge_requests=1)
        # An HTML page comes back as a string, an error in JSON without choices.
        if not getattr(response, "choices", None):
            raise RequestError("the judge's answer is no chat completion")
        if usage := response.usage:
            self._progress.add(
                judge_input_tokens=usage.prompt_tokens,
                judge_output_tokens=usage.completion_tokens,
            )
        choice = response.choices[0]
        if choice.finish_reason != "stop" or not choice.message.content:
            reason = choice.message.refusal or choice.finish_reason
            raise RequestError(f"the judge gave no grades ({reason})")
        return str(choice.message.content)

    def _cache_file(self, body: dict[str, Any]) -> Path | None:
        if self._settings.cache_dir is None:
            return None
        asked = json.dumps([self._settings.base_url, body], sort_keys=True).encode()
        name = hashlib.blake2b(asked, digest_size=16).hexdigest()
        return Path(self._settings.cache_dir).expanduser() / name[:2] / f"{name}.json"


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


def _failure(url: str, error: APIError) -> EngineError | RequestError:
    """The error of the run if no request can succeed, else the error of this row."""
    # By name, for openai has changed its HTTP library, of which this is the class.
    if type(error.__cause__).__name__ == "ConnectError":
        return EngineError(
            f"the judge at {url} cannot be reached ({error.__cause__}); start it, or correct "
            "engines.scorer.base_url"
        )
    status = getattr(error, "status_code", None)
    if status in _UNUSABLE:
        return EngineError(f"the judge at {url} {_UNUSABLE[status]} ({error.message})")
    return RequestError(f"the judge at {url} failed ({status or error!r}): {error.message}")


def _read(file: Path) -> str | None:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        return None


def _write(text: str, file: Path) -> None:
    """Write an answer by rename: several stage actors share the directory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{uuid4().hex}.tmp")
    partial.write_text(text, "utf-8")
    partial.replace(file)
