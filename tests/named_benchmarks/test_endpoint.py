"""A model behind an endpoint is a row of the table, and its errors are never wrong answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.named_benchmarks.conftest import ROWS, Endpoint, says

Sphere = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Settings with one grading worker, whose runs lie below the test's directory."""
    document = {
        "name": "try",
        "run_dir": str(tmp_path / "runs" / "try"),
        "problems": {s: {"source": f"file:{s}.jsonl"} for s in ("train", "validation", "test")},
        "engines": {"policy": {"path": "m"}, "policy_pool": {"kv_cache_gib": 1}},
        "grading": {"workers": 1},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture
def ask(
    sphere: Sphere,
    config: str,
    directory: Path,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "160")

    def ask(*arguments: str) -> tuple[int, str, str]:
        return sphere(
            *("evaluate", "--config", config, "--benchmark-dir", str(directory)),
            *("--endpoint", endpoint.url, "--endpoint-model", "big", *arguments),
        )

    return ask


def test_the_endpoint_answers_and_a_repetition_asks_nothing(
    ask: Any, endpoint: Endpoint, tmp_path: Path
) -> None:
    arguments = ("--benchmarks", "gsm8k,svamp", "--samples", "2")
    code, out, err = ask(*arguments)
    assert (code, err) == (0, "")
    number = 3 * (len(ROWS["gsm8k"]) + len(ROWS["svamp"]))
    assert len(endpoint.bodies) == number
    assert f"{number} requests, 0 answers kept" in " ".join(out.split())
    for told in ("gsm8k", "svamp", "big (endpoint)", "33.3", "gsm8k: 3 of its 1,319 problems"):
        assert told in out
    # What was read is said, with a problem and its gold.
    assert "gsm8k: 3 problems from 3 rows of benchmark:gsm8k" in out
    assert "gsm8k, for example: Ann has 0 pens and buys 2 more. How many? [gold: 2]" in out
    question = endpoint.bodies[0]["messages"][-1]["content"]
    assert question.startswith("Ann has 0 pens")
    assert "\\boxed{}" in question
    assert endpoint.keys[0] == "Bearer none"

    code, out, _ = ask(*arguments)
    assert (code, len(endpoint.bodies)) == (0, number)
    assert f"0 requests, {number} answers kept" in " ".join(out.split())
    assert [*(tmp_path / "runs" / "endpoint-answers").rglob("*.json")]


def test_problems_of_a_source_are_a_set_as_well(
    ask: Any, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}))
    code, out, _ = ask("--problems", f"file:{tmp_path}/mine.jsonl", "--benchmarks", "svamp")
    assert code == 0
    assert [body["temperature"] for body in endpoint.bodies] == [0.0] * 3
    assert "problems" in out
    assert "100.0" in out


def test_an_answer_that_was_cut_is_wrong_but_a_refusal_is_no_answer(
    ask: Any, endpoint: Endpoint
) -> None:
    def reply(question: str) -> web.Response:
        return (
            says(None, refusal="I cannot") if "has 0" in question else says("\\boxed{3}", "length")
        )

    endpoint.reply = reply
    code, _, err = ask("--benchmarks", "gsm8k")
    assert code == 1
    assert "1 of 3 problems failed" in err
    assert "I cannot" in err
    assert err.count("\n") == 1
    # What was answered is kept.
    endpoint.reply = lambda _: says("\\boxed{2}")
    code, out, _ = ask("--benchmarks", "gsm8k")
    assert code == 0
    assert len(endpoint.bodies) == 3 + 1
    assert "33.3" in out


def test_few_failures_are_counted_and_left_out(ask: Any, endpoint: Endpoint, config: str) -> None:
    document = yaml.safe_load(Path(config).read_text())
    document["rollout"] = {"max_failed_share": 0.5}
    Path(config).write_text(yaml.safe_dump(document))
    endpoint.reply = lambda question: (
        web.json_response({"error": {"message": "too long"}}, status=400)
        if "has 2" in question
        else says("\\boxed{2}")
    )
    code, out, _ = ask("--benchmarks", "gsm8k")
    assert code == 0
    assert "gsm8k, big (endpoint): 1 not answered" in out
    assert "50.0" in out  # of the two that were answered


def test_a_busy_endpoint_is_asked_again(ask: Any, endpoint: Endpoint) -> None:
    busy = {"error": {"message": "busy"}}
    endpoint.reply = lambda _: (
        web.json_response(busy, status=429, headers={"retry-after-ms": "1"})
        if len(endpoint.bodies) <= 2
        else says("\\boxed{0}")
    )
    code, out, _ = ask("--benchmarks", "svamp")
    assert code == 0
    assert len(endpoint.bodies) == 2 + len(ROWS["svamp"])
    assert "100.0" in out


def test_a_key_comes_from_the_environment_and_is_written_nowhere(
    ask: Any, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIG_KEY", "hidden-key")
    code, out, err = ask("--benchmarks", "svamp", "--endpoint-key-env", "BIG_KEY")
    assert code == 0
    assert set(endpoint.keys) == {"Bearer hidden-key"}
    assert "hidden-key" not in out + err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"hidden-key" in path.read_bytes()]
    monkeypatch.delenv("BIG_KEY")
    code, _, err = ask("--benchmarks", "svamp", "--endpoint-key-env", "BIG_KEY")
    assert code == 1
    assert "$BIG_KEY" in err


@pytest.mark.parametrize(
    ("status", "told"), [(401, "refuses the key"), (404, "does not know the model")]
)
def test_an_endpoint_that_serves_nothing_is_one_sentence(
    ask: Any, endpoint: Endpoint, status: int, told: str
) -> None:
    endpoint.reply = lambda _: web.json_response({"error": {"message": "no"}}, status=status)
    code, out, err = ask("--benchmarks", "svamp")
    assert code == 1
    assert told in err
    assert err.count("\n") == 1
    assert "Benchmarks" not in out


def test_nobody_listening_names_the_option(sphere: Sphere, config: str, directory: Path) -> None:
    code, _, err = sphere(
        *("evaluate", "--config", config, "--benchmarks", "svamp"),
        *("--benchmark-dir", str(directory)),
        *("--endpoint", "http://127.0.0.1:9/v1", "--endpoint-model", "big"),
    )
    assert code == 1
    assert "correct --endpoint" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("evaluate", "m"), "--benchmarks"),
        (("evaluate", "--benchmarks", "gsm8k"), "name whom to ask"),
        (("evaluate", "m", "--benchmarks", "gsm9k"), "no benchmark"),
        (("evaluate", "m", "--problems", "file:x", "--benchmark-dir", "y"), "has no effect"),
        (("evaluate", "m", "--benchmarks", "svamp", "--endpoint", "http://x"), "belong together"),
        (("evaluate", "m", "--benchmarks", "svamp", "--endpoint-key-env", "K"), "has no effect"),
        (
            ("evaluate", "--benchmarks", "a", "--endpoint", "ftp://x", "--endpoint-model", "y"),
            "no address",
        ),
        (("compare", "m", "m", "--problems", "file:x"), "name two that differ"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    sphere: Sphere, arguments: tuple[str, ...], told: str
) -> None:
    code, _, err = sphere(*arguments)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
