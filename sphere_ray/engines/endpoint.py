"""The client of an OpenAI-compatible endpoint. Answers are kept on disk, so none is paid for twice.

One that is busy, failing or silent is an error of the row. One that can serve nothing ends the run.
"""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from aiolimiter import AsyncLimiter
from openai import APIError, APITimeoutError, AsyncOpenAI
from openai.types.chat.chat_completion import Choice

from sphere_ray import storage
from sphere_ray.config.endpoint import EndpointSettings
from sphere_ray.errors import DeadlineExceededError, EngineError, RequestError
from sphere_ray.method.ports import Progress

_MINUTE = 60.0
# Every later request would get these, too.
_UNUSABLE = {401: "refuses the key", 403: "refuses the key", 404: "does not know the model"}


class EndpointClient:
    """Asks for chat completions; in counters and errors it goes by its role (`judge_requests`)."""

    def __init__(
        self, settings: EndpointSettings, progress: Progress, *, role: str, setting: str
    ) -> None:
        """Send nothing yet; `setting` is where the address was given, for errors.

        Raises:
            EngineError: the environment variable of the key is not set.
        """
        key = "none"
        if settings.api_key_env is not None:
            key = os.environ.get(settings.api_key_env, "")
            if not key:
                raise EngineError(
                    f"the {role}'s key is looked for in ${settings.api_key_env}, which is not set "
                    "where it is asked; set it there (of a job: in its runtime environment)"
                )
        self._settings, self._progress, self._key = settings, progress, key
        self._role, self._setting = role, setting
        self._client: AsyncOpenAI | None = None
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        # One start at a time, so that starts are spread evenly over a minute.
        rate = settings.requests_per_minute
        self._turns = AsyncLimiter(1, _MINUTE / rate) if rate else None

    async def ask(self, body: dict[str, Any]) -> Choice:
        """The first choice of a chat completion.

        Raises:
            RequestError: the endpoint failed after all retries, or gave no chat completion.
            DeadlineExceededError: it took too long, retries included.
            EngineError: nothing listens there, or it refuses the key or the model.
        """
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
                    f"the {self._role} at {settings.base_url} did not answer within "
                    f"{settings.timeout_s:g} s, asked {settings.max_retries + 1} times"
                ) from error
            except APIError as error:
                raise self._failure(error) from error
            except ValueError as error:
                raise RequestError(f"the {self._role}'s answer is no JSON ({error})") from error
        self._count(requests=1)
        # An HTML page comes back as a string, an error in JSON without choices.
        if not getattr(response, "choices", None):
            raise RequestError(f"the {self._role}'s answer is no chat completion")
        if usage := response.usage:
            self._count(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)
        choice: Choice = response.choices[0]
        return choice

    async def recall(self, question: Any) -> str | None:
        """What was kept for a question (any JSON value), if something was."""
        file = self._file(question)
        # Files may lie on a network mount, where reading one would hold up all other requests.
        text = None if file is None else await asyncio.to_thread(storage.read_text, file)
        if text is not None:
            self._count(cached=1)
        return text

    async def keep(self, question: Any, text: str) -> None:
        """Keep a text for a question, if there is a directory for that."""
        file = self._file(question)
        if file is not None:
            await asyncio.to_thread(storage.write_text, text, file)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _file(self, question: Any) -> str | None:
        if self._settings.cache_dir is None:
            return None
        asked = json.dumps([self._settings.base_url, question], sort_keys=True)
        name = hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()
        return str(Path(self._settings.cache_dir).expanduser() / name[:2] / f"{name}.json")

    def _count(self, **counts: int) -> None:
        self._progress.add(**{f"{self._role}_{name}": count for name, count in counts.items()})

    def _failure(self, error: APIError) -> EngineError | RequestError:
        """The error of the run if no request can succeed, else the error of this row."""
        who = f"the {self._role} at {self._settings.base_url}"
        # By name, for openai has changed its HTTP library, of which this is the class.
        if type(error.__cause__).__name__ == "ConnectError":
            return EngineError(
                f"{who} cannot be reached ({error.__cause__}); start it, or correct {self._setting}"
            )
        status = getattr(error, "status_code", None)
        if status in _UNUSABLE:
            return EngineError(f"{who} {_UNUSABLE[status]} ({error.message})")
        return RequestError(f"{who} failed ({status or error!r}): {error.message}")
