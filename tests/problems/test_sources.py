import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sphere_ray.config.method import PromptSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.rows import Columns, RawRow, pick
from sphere_ray.problems.sources import read_hub, read_source, reader_for

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]


def content(uri: str) -> list[tuple[object, ...]]:
    return [fields(row) for row in read_source(uri)]


def fields(row: RawRow) -> tuple[object, ...]:
    assert row.values is not None
    return tuple(pick(row.values, names)[1] for names in (row.columns.question, row.columns.answer))


def complaint(uri: str) -> str:
    with pytest.raises(ProblemSourceError) as caught:
        list(read_source(uri))
    message = str(caught.value)
    assert "\n" not in message
    return message


def jsonl(rows: list[Any]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def csv_text(rows: list[dict[str, Any]]) -> str:
    return "question,answer\n" + "".join(f'"{r["question"]}",{r["answer"]}\n' for r in rows)


def parquet_bytes(columns: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer)
    return buffer.getvalue()


WRITTEN = {
    "p.jsonl": jsonl(ROWS).encode(),
    "p.json": json.dumps(ROWS, indent=1).encode(),
    "p.jsonl.gz": gzip.compress(jsonl(ROWS).encode()),
    "p.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "P.CSV.GZ": gzip.compress(csv_text(ROWS).encode()),
    "p.csv": csv_text(ROWS).encode(),
    "p.parquet": parquet_bytes(
        {"question": [r["question"] for r in ROWS], "answer": [r["answer"] for r in ROWS]}
    ),
}


@pytest.fixture
def memory() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/problems", recursive=True)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WRITTEN[name])
    assert content(f"file:{tmp_path / name}") == [("1 + 1?", "2"), ("2 + 2?", "4")]


@pytest.mark.parametrize("name", WRITTEN)
def test_files_are_read_from_any_filesystem(memory: Any, name: str) -> None:
    memory.pipe_file(f"/problems/{name}", WRITTEN[name])
    assert len(content(f"file:memory://problems/{name}")) == 2


def test_a_relative_path_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.jsonl").write_bytes(WRITTEN["p.jsonl"])
    monkeypatch.chdir(tmp_path)
    assert len(content("file:p.jsonl")) == 2


def test_a_row_knows_its_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n\n{json.dumps(ROWS[1])}\n")
    assert [row.origin for row in read_source(f"file:{path}")] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [("problem", "solution"), ("prompt", "final_answer"), ("query", "response")],
)
def test_columns_of_known_data_sets_are_found(tmp_path: Path, question: str, answer: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(jsonl([{question: "q", answer: "a"}]))
    assert content(f"file:{path}") == [("q", "a")]


def test_a_bare_answer_is_preferred_to_a_solution(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(jsonl([{"problem": "q", "solution": "long", "answer": "a"}]))
    assert content(f"file:{path}") == [("q", "a")]


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("frage,antwort,question\nq,a,no\n")
    assert content(f"file:{path}?question=frage&answer=antwort") == [("q", "a")]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.json"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + WRITTEN[name])
    assert content(f"file:{path}") == [("1 + 1?", "2"), ("2 + 2?", "4")]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"question": "1 + 1?", ', "not valid JSON"),
        ("[1, 2]", "not a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ('{"question": "q", "answer": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_broken_json_line_costs_that_row_only(tmp_path: Path, line: str, error: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n{line}\n{json.dumps(ROWS[1])}\n")
    rows = list(read_source(f"file:{path}"))
    assert [row.values is None for row in rows] == [False, True, False]
    assert error in str(rows[1].error)
    assert rows[1].origin == f"{path}:2"


def test_a_csv_row_with_a_cell_too_many_costs_that_row_only(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("question,answer\nq,a\nHow many, he asked,3\nr,b\n")
    errors = [row.error for row in read_source(f"file:{path}")]
    assert errors == [None, "3 cells for 2 columns", None]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("p.txt", b"[]", "unknown kind"),
        ("p.parquet.gz", b"", "unknown kind"),
        ("p.parquet", b"not parquet at all", "not a valid parquet file"),
        ("p.jsonl", '{"question": "caf\xe9"}'.encode("latin-1"), "not UTF-8"),
        ("p.csv", "question,answer\ncaf\xe9,1\n".encode("latin-1"), "not UTF-8"),
        ("p.csv", b'question,answer\n"never closed,1\n', "not valid CSV"),
        ("p.csv", b"text,answer\nq,1\n", "no question column: it has text, answer"),
        ("p.csv", b"", "no question column: it has none"),
        ("p.jsonl", b'{"text": "q", "answer": "a"}\n', "no question column: it has text, answer"),
        ("p.jsonl", b'{"question": "q", "gold": "a"}\n', "no answer column"),
        ("p.parquet", parquet_bytes({"text": ["q"], "answer": ["1"]}), "no question column"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, name: str, data: bytes, expected: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    message = complaint(f"file:{path}")
    assert expected in message
    assert str(path) in message


def test_a_truncated_parquet_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(WRITTEN["p.parquet"][:-20])
    assert "not a valid parquet file" in complaint(f"file:{path}")


def test_a_path_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert "does not exist" in complaint(f"file:{tmp_path}/none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "is a directory" in complaint(f"file:{tmp_path}/folder.jsonl")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("data/p.jsonl", "no known scheme"),
        ("file:", "names nothing"),
        ("file:p.jsonl?qestion=q", "qestion=q is not understood"),
        ("file:nosuch://p.jsonl", "cannot be read"),
        ("hf:gsm8k@abc", "not a hub data set"),
        ("hf:openai/gsm8k", "no fixed revision"),
        ("hf:openai/gsm8k@main?split=test", "no fixed revision"),
        ("hf:openai/gsm8k@abc?splt=test", "splt=test is not understood"),
        ("generated:nothing?count=3", "nothing"),
    ],
)
def test_a_uri_that_cannot_be_used_is_one_sentence(uri: str, expected: str) -> None:
    assert expected in complaint(uri)


def test_generated_problems_have_question_answer_and_family() -> None:
    row = next(read_source("generated:arithmetic?split=train&count=1"))
    assert row.values is not None
    assert row.values["question"]
    assert row.values["answer"]
    assert row.values["family"]


def test_hub_rows_come_from_the_pinned_revision() -> None:
    asked: dict[str, Any] = {}

    def load(path: str, **options: Any) -> list[dict[str, str]]:
        asked.update(options, path=path)
        return ROWS

    options = {"split": "test", "config": "main"}
    rows = list(read_hub("openai/gsm8k@0123abc", options, Columns(), load))
    assert [fields(row) for row in rows] == [("1 + 1?", "2"), ("2 + 2?", "4")]
    assert rows[1].origin == "hf:openai/gsm8k@0123abc test row 2"
    assert asked["path"] == "openai/gsm8k"
    assert (asked["name"], asked["split"], asked["revision"]) == ("main", "test", "0123abc")


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("Unknown split 'x'")])
def test_a_hub_that_refuses_is_one_sentence(error: Exception) -> None:
    def load(path: str, **options: Any) -> list[dict[str, str]]:
        raise error

    with pytest.raises(ProblemSourceError, match=f"cannot be read: {error}; check"):
        list(read_hub("openai/gsm8k@0123abc", {}, Columns(), load))


def test_hub_columns_are_checked() -> None:
    def load(path: str, **options: Any) -> list[dict[str, str]]:
        return [{"text": "x"}]

    with pytest.raises(ProblemSourceError, match="no question column: it has text"):
        list(read_hub("a/b@c", {}, Columns(), load))


def test_generated_problems_share_no_operands_with_the_examples_of_the_prompts() -> None:
    shown = {"question": "Ann has 2 pens and gets 2 more. How many is that?", "response": "#### 4"}
    prompts = PromptSettings.model_validate({"examples": [shown]})
    everywhere, left_out = [], []
    for split in ("train", "validation", "test", "confirmation"):
        uri = f"generated:arithmetic?split={split}&count=200&levels=1&max_answer=6"
        everywhere += [str(question) for question, _ in content(uri)]
        left_out += [str(fields(row)[0]) for row in reader_for(prompts)(uri)]
    assert any(re.findall(r"\d+", question) == ["2", "2"] for question in everywhere)
    assert not any(re.findall(r"\d+", question) == ["2", "2"] for question in left_out)
    assert len(left_out) == len(everywhere) == 800
