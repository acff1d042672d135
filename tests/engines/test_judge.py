"""The judge against an endpoint on loopback that behaves, is slow, refuses, or talks nonsense."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from sphere_ray.config.scorers import JudgeSettings
from sphere_ray.engines.judge import JudgeScorer
from sphere_ray.errors import DeadlineExceededError, EngineError, RequestError, SphereError
from sphere_ray.method.ports import ScoreRequest
from sphere_ray.records import Candidate, Problem, StopReason

PROBLEM = Problem(problem_id="p", question="What is 2 + 2?", answer="4", source="test")


@dataclass
class Endpoint:
    """Answers chat completions with what `reply` makes of the request's body."""

    reply: Callable[[dict[str, Any]], Awaitable[web.Response] | web.Response]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    scorers: list[JudgeScorer] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    transports: list[asyncio.Transport] = field(default_factory=list)
    url: str = ""

    def add(self, **counts: int) -> None:
        """The port `Progress`."""
        self.counts.update(counts)

    async def handle(self, request: web.Request) -> web.Response:
        self.times.append(time.monotonic())
        assert request.transport is not None
        self.transports.append(request.transport)
        self.bodies.append(await request.json())
        self.keys.append(request.headers["Authorization"])
        response = self.reply(self.bodies[-1])
        return response if isinstance(response, web.Response) else await response


def says(content: str | None, finish: str = "stop", refusal: str | None = None) -> web.Response:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return web.json_response(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "judge",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
    )


def grades(*values: int) -> web.Response:
    return says(json.dumps({"grades": values}))


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(lambda _: grades(9, 2))
    app = web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield endpoint
    for scorer in endpoint.scorers:
        await scorer.close()
    await runner.cleanup()


def step(text: str) -> Candidate:
    return Candidate(text=text, token_ids=(1,), logprob=-1.0, stop_reason=StopReason.BOUNDARY)


def ask(*texts: str, prefix: tuple[str, ...] = ()) -> ScoreRequest:
    return ScoreRequest(
        problem=PROBLEM,
        messages=(),
        prefix=tuple(map(step, prefix)),
        candidates=tuple(map(step, texts)),
        seed=0,
    )


def judge(endpoint: Endpoint, **settings: Any) -> JudgeScorer:
    known = {"base_url": endpoint.url, "model": "judge", "max_retries": 0}
    scorer = JudgeScorer(JudgeSettings(**(known | settings)), endpoint)
    endpoint.scorers.append(scorer)
    return scorer


async def test_all_siblings_are_graded_in_one_request_and_nothing_of_the_gold_is_sent(
    endpoint: Endpoint,
) -> None:
    scores = await judge(endpoint).score(ask("2 + 2 = 4", "2 + 2 = 5", prefix=("Add them.\n",)))
    assert [score.reward for score in scores] == [0.9, 0.2]
    (body,) = endpoint.bodies
    said = "\n".join(message["content"] for message in body["messages"])
    for text in (PROBLEM.question, "Add them.", "2 + 2 = 4", "2 + 2 = 5"):
        assert text in said
    wanted = body["response_format"]["json_schema"]["schema"]["properties"]["grades"]
    assert (wanted["minItems"], wanted["maxItems"]) == (2, 2)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (says("The first one looks good."), "instead of 2 grades"),
        (says('{"grades": [9]}'), "instead of 2 grades"),
        (says('{"grades": [9, 2, 1]}'), "instead of 2 grades"),
        (says('{"grades": [9, 11]}'), "instead of 2 grades"),
        (says('{"grades": [9, -1]}'), "instead of 2 grades"),
        (says('{"grades": [9, 0.5]}'), "instead of 2 grades"),
        (says('{"grades": ["9", "2"]}'), "instead of 2 grades"),
        (says('{"grades": [9, 2], "sure": true}'), "instead of 2 grades"),
        (says('{"grades": [true, false]}'), "instead of 2 grades"),
        (says('{"grades": [9, 2'), "instead of 2 grades"),
        (says('{"grades": [9, 2]}', finish="length"), "length"),
        (says(None, refusal="I cannot help with that."), "I cannot help"),
        (says(""), "no grades"),
        (web.json_response({"error": {"message": "too long"}}, status=400), "too long"),
        (web.json_response({"error": {"message": "too large"}}, status=413), "too large"),
        (web.json_response({"error": {"message": "no such thing"}}), "no chat completion"),
        (web.json_response({"choices": []}), "no chat completion"),
        (web.Response(text="<html>busy</html>", content_type="text/html"), "no chat completion"),
        (web.Response(text='{"choices": [', content_type="application/json"), "no JSON"),
    ],
)
async def test_anything_but_grades_is_an_error_of_the_row(
    endpoint: Endpoint, tmp_path: Any, reply: web.Response, told: str
) -> None:
    endpoint.reply = lambda _: reply
    with pytest.raises(RequestError, match=told):
        await judge(endpoint, cache_dir=str(tmp_path)).score(ask("a", "b"))
    assert not [*tmp_path.rglob("*.json")]


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "refuses the key"), (403, "refuses the key"), (404, "does not know the model")],
)
async def test_an_endpoint_that_cannot_serve_at_all_stops_the_run(
    endpoint: Endpoint, status: int, told: str
) -> None:
    endpoint.reply = lambda _: web.json_response({"error": {"message": "no"}}, status=status)
    with pytest.raises(EngineError, match=told) as raised:
        await judge(endpoint).score(ask("a", "b"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_an_endpoint_that_fails_at_a_request_after_all_retries_fails_the_row(
    endpoint: Endpoint, status: int
) -> None:
    wait = {"retry-after-ms": "1"}
    endpoint.reply = lambda _: web.json_response(
        {"error": {"message": "busy"}}, status=status, headers=wait
    )
    with pytest.raises(RequestError, match=rf"failed \({status}\).*busy"):
        await judge(endpoint, max_retries=2).score(ask("a", "b"))
    assert len(endpoint.bodies) == 3


async def test_a_connection_that_breaks_off_fails_the_row(endpoint: Endpoint) -> None:
    async def breaks_off(_: Any) -> web.Response:
        endpoint.transports[-1].close()
        await asyncio.Event().wait()
        raise AssertionError

    endpoint.reply = breaks_off
    with pytest.raises(RequestError, match="failed"):
        await judge(endpoint).score(ask("a", "b"))


async def test_an_endpoint_that_is_down_is_one_sentence(endpoint: Endpoint) -> None:
    settings = {"base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(EngineError, match=r"cannot be reached.*base_url") as raised:
        await judge(endpoint, **settings).score(ask("a", "b"))
    assert "\n" not in str(raised.value)


async def test_a_slow_endpoint_runs_into_the_deadline(endpoint: Endpoint) -> None:
    async def never(_: Any) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    endpoint.reply = never
    with pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"):
        await judge(endpoint, timeout_s=0.2).score(ask("a", "b"))


async def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    def busy(_: Any) -> web.Response:
        if len(endpoint.bodies) >= 3:
            return grades(9, 2)
        wait = {"retry-after-ms": "10"}
        return web.json_response({"error": {"message": "busy"}}, status=429, headers=wait)

    endpoint.reply = busy
    scores = await judge(endpoint, max_retries=3).score(ask("a", "b"))
    assert [score.reward for score in scores] == [0.9, 0.2]
    assert len(endpoint.bodies) == 3


async def test_an_answer_is_paid_for_once_whoever_asks(endpoint: Endpoint, tmp_path: Any) -> None:
    settings = {"cache_dir": str(tmp_path)}
    first, second = judge(endpoint, **settings), judge(endpoint, **settings)
    scores = [await scorer.score(ask("a", "b")) for scorer in (first, second, second)]
    assert scores[0] == scores[1] == scores[2]
    assert len(endpoint.bodies) == 1
    assert endpoint.counts == {
        "judge_requests": 1,
        "judge_cached": 2,
        "judge_input_tokens": 100,
        "judge_output_tokens": 10,
    }
    await second.score(ask("b", "a"))
    await judge(endpoint, **settings, model="another").score(ask("a", "b"))
    assert len(endpoint.bodies) == 3


async def test_starts_keep_to_the_rate_and_few_are_under_way(endpoint: Endpoint) -> None:
    under_way, most = 0, 0

    async def slowly(_: Any) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return grades(9, 2)

    endpoint.reply = slowly
    scorer = judge(endpoint, requests_per_minute=1200, max_concurrent=2)
    await asyncio.gather(*(scorer.score(ask(str(n), "b")) for n in range(6)))
    assert most <= 2
    # 1200 a minute is one every 50 ms.
    assert endpoint.times[-1] - endpoint.times[0] >= 5 * 0.05 - 0.02


async def test_the_key_comes_from_the_environment(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    await judge(endpoint, api_key_env="JUDGE_KEY").score(ask("a", "b"))
    assert endpoint.keys == ["Bearer secret"]
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(SphereError, match="JUDGE_KEY"):
        judge(endpoint, api_key_env="JUDGE_KEY")


def test_stage_actors_share_the_limits() -> None:
    settings = JudgeSettings(
        base_url="http://j", model="m", max_concurrent=32, requests_per_minute=60
    )
    one = settings.shared_by(6)
    assert (one.max_concurrent, one.requests_per_minute) == (5, 10)
    assert settings.shared_by(100).max_concurrent == 1
