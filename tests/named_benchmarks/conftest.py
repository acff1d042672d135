import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"question": f"Ann has {n} pens and buys 2 more. How many?", "answer": f"#### {n + 2}"}
        for n in range(3)
    ],
    "svamp": [
        {
            "Body": f"Bob had {n} cups.",
            "Question": f"He broke {n}. How many are left?",
            "Answer": 0.0,
        }
        for n in (3, 4)
    ],
    "olympiadbench": [
        {"context": None, "question": "Solve $x^2=4$.", "final_answer": ["2, -2"]},
        {"context": "Let $n=3$.", "question": "Find $n!$.", "final_answer": ["$6$"]},
    ],
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that stands in for the hub."""
    folder = tmp_path / "sets"
    folder.mkdir()
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@dataclass
class Endpoint:
    """Answers each chat with what `reply` makes of its last turn."""

    reply: Callable[[str], web.Response]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.keys.append(request.headers["Authorization"])
        return self.reply(self.bodies[-1]["messages"][-1]["content"])


def says(text: str | None, finish: str = "stop", refusal: str | None = None) -> web.Response:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return web.json_response(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "big",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40},
        }
    )


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint on loopback, in a thread of its own: commands run loops of their own."""
    fake = Endpoint(lambda _: says("so \\boxed{2}"))
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", fake.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield fake
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
