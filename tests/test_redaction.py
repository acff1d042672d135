"""Secrets in URLs: what is hidden, and that they reach no file of a run."""

import json
import pickle
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config import RunSettings
from sphere_ray.config.base import dump, identity
from sphere_ray.errors import ProblemSourceError, SphereError
from sphere_ray.problems.sources import read_source
from sphere_ray.records import ModelRef
from sphere_ray.redaction import is_redacted, redact
from sphere_ray.runs.directory import WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor
from sphere_ray.runs.steps.problems import ProblemsStep

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/p.jsonl",
        f"https://{SECRET}@host/p.jsonl",
        f"https://user:p@{SECRET}@host:443/p.jsonl",
        f"https://user:a/b?{SECRET}@host/p.jsonl",
        f"file:https://host/p.jsonl?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"https://host/p.jsonl?sig={SECRET}",
        f"https://host/p.jsonl?a=1&access_TOKEN={SECRET}#question=q",
        f"https://host/p.jsonl?%74oken={SECRET}",
        f"https://host/p.jsonl#password={SECRET}",
        f"https://host/p.jsonl;api_key={SECRET}",
        f"two of them: https://a:{SECRET}@b/c and s3://x/y?credential={SECRET}'",
        f"simplecache::https://user:{SECRET}@host/p.jsonl",
    ],
)
def test_secrets_of_urls_are_hidden(url: str) -> None:
    hidden = redact(url)
    assert SECRET not in hidden
    assert is_redacted(hidden)
    assert redact(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "file:data/p.jsonl?question=a,b&answer=c",
        "hf:openai/gsm8k@0123abc?split=test&config=main",
        "https://host:8080/a@b/p.jsonl?version=3&page=2",
        "s3://bucket/data@2/p.jsonl",
        "generated:arithmetic?split=train&seed=0&count=3",
        "a sentence with token=5 and no URL",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text
    assert not is_redacted(text)


@given(st.text(st.sampled_from("ab:/@?&#=;. \n*") | st.characters(), max_size=40))
def test_hiding_twice_hides_no_more(text: str) -> None:
    once = redact(f"https://{text}")
    assert redact(once) == once


def test_errors_hide_secrets_also_where_they_are_sent_elsewhere() -> None:
    error = ProblemSourceError(f"https://u:{SECRET}@host/x cannot be read")
    assert SECRET not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, SphereError)


def test_a_hidden_secret_is_asked_for_again() -> None:
    with pytest.raises(ProblemSourceError, match="name the source again, with its secret"):
        list(read_source("file:https://***@host/p.jsonl"))


@pytest.mark.parametrize("query", ["", f"?token={SECRET}"])
def test_a_failed_download_shows_no_secret(query: str) -> None:
    source = f"file:http://user:{SECRET}@127.0.0.1:9/p.jsonl{query}"
    with pytest.raises(ProblemSourceError, match=r"does not exist.*Connect call failed") as caught:
        list(read_source(source))
    assert SECRET not in str(caught.value)


def settings(tmp_path: Path, source: str) -> RunSettings:
    """Settings whose sources are `source` with the name of the split in the place of `{}`."""
    splits = ("train", "validation", "test")
    document: dict[str, Any] = {
        "name": "r",
        "run_dir": str(tmp_path / "run"),
        "problems": {split: {"source": source.format(split)} for split in splits},
        "engines": {"policy": {"path": "tiny:policy"}, "policy_pool": {"kv_cache_gib": 1}},
    }
    return RunSettings.model_validate(document)


def test_settings_are_written_without_secrets_and_identify_the_same_work(tmp_path: Path) -> None:
    source = "file:https://user:{0}@host/{{}}.jsonl?sig={0}"
    ours = settings(tmp_path, source.format(SECRET))
    assert SECRET not in str(dump(ours))
    assert SECRET in ours.problems.train.source
    renewed, reopened = settings(tmp_path, source.format("x")), RunSettings(**dump(ours))
    assert identity(problems=ours.problems) == identity(problems=renewed.problems)
    assert identity(problems=ours.problems) == identity(problems=reopened.problems)


SERVED = {
    "train": [("Q?", "1"), ("q", None), ("What is 2 plus 3?", "5")],
    "validation": [("v", "1")],
    "test": [("q?", "1")],
}


class Handler(BaseHTTPRequestHandler):
    """Serves a split to those who know the secret."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        lines = [json.dumps({"question": q, "answer": a}) for q, a in SERVED[Path(path).stem]]
        body = "\n".join(lines).encode()
        self.send_response(200 if query == f"sig={SECRET}" else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        Thread(target=serving.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_no_file_of_a_run_directory_holds_a_secret(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"file:http://user:{SECRET}@{server}/{{}}.jsonl?sig={SECRET}"
    ours = settings(tmp_path, source)
    ours = RunSettings(
        **{**dict(ours), "problems": {**dict(ours.problems), "max_rejected_share": 1}}
    )
    with WritableRun.create(ours.run_dir, ours) as run, Session(run=run) as session:
        made = Executor(session).make(
            ProblemsStep(settings=ours, policy=ModelRef(path="", iteration=0, fingerprint="f"))
        )
    assert made.report.rows_out == 3
    assert dict(made.report.dropped) == {"missing_answer": 1, "contaminated": 1}
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.json", "manifest.json", "events.jsonl", "rows.jsonl"} <= names
    assert {"contaminated.jsonl", "part-00000.parquet"} <= names
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    told = "".join(capsys.readouterr())
    assert "What is 2 plus 3?" in told
    assert SECRET not in told


def test_a_server_that_refuses_is_one_sentence_without_the_secret(server: str) -> None:
    with pytest.raises(ProblemSourceError, match="403") as caught:
        list(read_source(f"file:http://user:{SECRET}@{server}/train.jsonl?token={SECRET}"))
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_web_address_takes_its_options_after_the_hash(server: str) -> None:
    source = f"file:http://{server}/train.jsonl?sig={SECRET}#question=answer&answer=question"
    rows = list(read_source(source))
    assert rows[0].columns.question == ("answer",)
