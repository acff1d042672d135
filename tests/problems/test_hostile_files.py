"""Problem files by strangers: a sentence, or rows in rejected/; soon, and nothing in silence."""

import datetime
import gzip
import io
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray.config.problems import SplitSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.ingest import IngestResult, ingest_splits, rejected_lines, require_usable
from sphere_ray.records import Problem
from sphere_ray.schema import to_table
from tests.linear_time import linear_time, repeated

MOST_SECONDS = 20  # of this process's CPU; on an idle machine all take less than 2


@contextmanager
def in_time() -> Iterator[None]:
    begin = time.process_time()
    yield
    assert time.process_time() - begin < MOST_SECONDS


def row(question: Any = "q", answer: Any = "1", **more: Any) -> str:
    return json.dumps({"question": question, "answer": answer, **more})


def parquet(names: list[str], *columns: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    arrays = [each if isinstance(each, pa.Array) else pa.array(each) for each in columns]
    pq.write_table(pa.Table.from_arrays(arrays, names=names), buffer, **options)
    return buffer.getvalue()


FAR = pa.array([2**62], pa.timestamp("ms"))
GOOD = row("good", "7")

REFUSED: dict[str, tuple[str, bytes | str, str]] = {
    "an array by the wrong name": ("p.jsonl", f"[{GOOD}]", "JSON array"),
    "an array of many lines": ("p.jsonl", f"[\n{GOOD}\n]", "JSON array"),
    "an object of many lines": ("p.jsonl", json.dumps(json.loads(GOOD), indent=1), "several lines"),
    "JSON lines by the wrong name": ("p.json", f"{GOOD}\n{GOOD}", "not one JSON array"),
    "an object": ("p.json", '{"data": []}', "not one JSON array"),
    "nothing": ("p.json", "", "not one JSON array"),
    "an open array": ("p.json", f"[{GOOD}", "not valid JSON at row 1"),
    "an open row": ("p.json", f"[{GOOD}, {{", "not valid JSON at row 2"),
    "no comma": ("p.json", f"[{GOOD} {GOOD}]", "no comma follows"),
    "two arrays": ("p.json", f"[{GOOD}][{GOOD}]", "not one JSON array"),
    "a deep array": ("p.json", "[" * 200_000, "not valid JSON at row 1"),
    "a deep row": ("p.json", f"[{GOOD}, {'[' * 200_000}]", "not valid JSON at row 2"),
    "half a gzip file": ("p.jsonl.gz", gzip.compress(GOOD.encode() * 999)[:-9], "cannot be read"),
    "no gzip file": ("p.jsonl.gz", GOOD, "cannot be read"),
    "a damaged gzip file": ("p.csv.gz", b"\x1f\x8b\x08" + bytes(99), "cannot be read"),
    "a gzip bomb of one line": ("p.jsonl.gz", gzip.compress(bytes(20 << 20)), "unpacks to more"),
    "a gzip bomb of lines": ("p.jsonl.gz", gzip.compress(b"\n" * (20 << 20)), "unpacks to more"),
    "a gzip bomb of an array": ("p.json.gz", gzip.compress(b" " * (20 << 20)), "unpacks to more"),
    "a line without an end": ("p.jsonl", b"x" * (17 << 20), "a line has more"),
    "columns twice": ("p.csv", "question,answer,answer\nq,1,2\n", "two columns named answer"),
    "columns twice in parquet": (
        "p.parquet",
        parquet(["question", "answer", "answer"], ["q"], ["1"], ["2"]),
        "two columns named answer",
    ),
    "many columns": ("p.csv", ",".join(f"c{i}" for i in range(200_000)), "no question column"),
    "a cell without an end": ("p.csv", 'question,answer\n"q' + "x" * 200_000, "not valid CSV"),
    "a quote in a cell": ("p.csv", 'question,answer\n"q"x,1\n', "not valid CSV"),
    "binary": ("p.jsonl", bytes(range(256)), "not UTF-8"),
    "UTF-16": ("p.jsonl", GOOD.encode("utf-16"), "not UTF-8"),
    "another file": ("p.parquet", b"PK\x03\x04" + bytes(999), "not a valid parquet file"),
    "an empty parquet file": ("p.parquet", b"", "not a valid parquet file"),
    "a moment far away": (
        "p.parquet",
        parquet(["question", "answer", "type"], ["q"], ["1"], FAR),
        "cannot be read",
    ),
    "an unread body": ("p.jsonl", row(body="Ann has 2 pens."), r"add \?question=body,question"),
    "an unread context": ("p.jsonl", GOOD + "\n" + row(context="Let x = 2."), "question=context"),
    "unread choices": ("p.jsonl", row(options=["1", "2"]), r"add \?choices=options"),
    "unread choices in parquet": (
        "p.parquet",
        parquet(["question", "choices", "answer"], ["q"], [["a", "b"]], [1]),
        r"add \?choices=choices",
    ),
    "other columns": ("p.jsonl", '{"a": 1, "b": 2}', "no question column"),
}


def ingested(path: Path, query: str = "") -> IngestResult:
    with in_time():
        result = ingest_splits({"train": SplitSettings(source=f"file:{path}{query}")})
    total = len(result.problems["train"]) + sum(result.dropped.values())
    assert total == result.rows["train"]
    to_table(result.problems["train"], Problem)  # what was kept can be written
    rejected_lines(result.rejected).encode()
    assert result.report()
    return result


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    name, data, expected = REFUSED[kind]
    path = write(tmp_path / name, data)
    with in_time(), pytest.raises(ProblemSourceError, match=expected) as caught:
        ingested(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet", "jsonl.gz"])
def test_a_file_that_never_ends_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    pipe, device = tmp_path / f"pipe.{suffix}", tmp_path / f"zero.{suffix}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with in_time(), pytest.raises(ProblemSourceError, match="pipe or a device"):
            ingested(path)
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind(str(tmp_path / f"s.{suffix}"))
        except OSError:
            pytest.skip("the path is too long for a socket")
        with in_time(), pytest.raises(ProblemSourceError, match="pipe or a device"):
            ingested(tmp_path / f"s.{suffix}")


@pytest.mark.parametrize(
    "source",
    [
        "file:a\0b.jsonl",
        "file:" + "x" * 300 + ".jsonl",
        "file:\udcff.jsonl",
        "file:~nobody-of-this-name/p.jsonl",
        "file:p.jsonl?grade=values",
        "file:p.jsonl?choices=a&grade=both",
        "file:p.jsonl?question=a&question=b",
        "file:p.jsonl?answer=",
        "file:p.exe",
        f"generated:arithmetic?split=train&count={10**11}",
        f"generated:arithmetic?split=train&count={'9' * 5000}",
        f"generated:arithmetic?split=train&count=1&seed={'9' * 5000}",
        f"generated:arithmetic?split=train&count=1&levels={'9' * 5000}",
        f"generated:arithmetic?split=train&count=1&max_answer={'9' * 5000}",
    ],
)
def test_a_source_that_cannot_be_is_one_sentence(source: str) -> None:
    with in_time(), pytest.raises(ProblemSourceError) as caught:
        ingest_splits({"train": SplitSettings.model_construct(source=source, limit=0)})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 6000


LINES: dict[str, tuple[str, str]] = {
    "a key twice": ('{"question": "q", "answer": "1", "answer": "2"}', "broken_row"),
    "a key twice inside": ('{"question": "q", "answer": "1", "x": {"a": 1, "a": 1}}', "broken_row"),
    "two objects": (f"{GOOD} {GOOD}", "broken_row"),
    "nested deeply": ('{"question": "q", "answer": ' + "[" * 100_000, "broken_row"),
    "5,000 digits": ('{"question": "q", "answer": ' + "9" * 5000 + "}", "broken_row"),
    "4,000 digits": ('{"question": "q", "answer": ' + "9" * 4000 + "}", "no_final_answer"),
    "4,000 digits as text": (row(answer="9" * 4000), "no_final_answer"),
    "not a number": ('{"question": "q", "answer": NaN}', "answer_not_text"),
    "beyond numbers": ('{"question": "q", "answer": 1e999}', "answer_not_text"),
    "half a pair in a question": (row("\ud83d"), "invalid_unicode"),
    "half a pair in an answer": (row("q", "\udc80"), "invalid_unicode"),
    "half a pair in a family": (row(family="\udc80"), "invalid_unicode"),
    "NULs": (row("\0" * 100), "empty_question"),
    "a question of 10 MB": (row("x " * 5_000_000), "question_too_long"),
    "a million marks": (row("a" + "\u0301\u0323" * 500_000), "invalid_unicode"),
    "a million marks in an answer": (row(answer="a" + "\u0301" * 1_000_000), "invalid_unicode"),
    "an answer of 10 MB": (row(answer="x " * 5_000_000), "no_final_answer"),
    "braces": (row(answer="}" * 1_000_000), "no_final_answer"),
    "an answer of objects": (row(answer=[{"a": 1}]), "answer_not_text"),
    "an answer of lists": (row(answer=[["1"]]), "answer_not_text"),
    "an answer of many": (row(answer=["1"] * 100_000), "answer_not_text"),
    "a question of lists": (row([["q"]]), "question_not_text"),
    "a talk": (row([{"role": "user", "content": "a"}] * 2), "question_not_text"),
    "an answered chat": (
        row([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        "question_not_text",
    ),
    "an empty chat": (row([]), "empty_question"),
    "null": ('{"question": null, "answer": "1"}', "missing_question"),
    "a number for a question": (row(5), "question_not_text"),
    "true": (row(answer=True), "answer_not_text"),
}


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_a_hostile_row_is_rejected_and_the_others_stay(
    tmp_path: Path, kind: str, name: str
) -> None:
    line, reason = LINES[kind]
    if name == "p.json" and reason == "broken_row" and "twice" not in kind:
        return  # it breaks the whole array, which is refused above
    rows = [GOOD, line, row("better", "8")]
    text = "\n".join(rows) if name == "p.jsonl" else f"[{', '.join(rows)}]"
    result = ingested(write(tmp_path / name, text))
    assert [problem.question for problem in result.problems["train"]] == ["good", "better"]
    assert result.dropped == {reason: 1}
    assert len(result.rejected[0].raw) <= 500


UNITS = [
    "}",
    "{",
    "\\boxed{",
    "\\boxed{1}",
    "#### ",
    "answer is ",
    "answer of ",
    "**",
    "$ ",
    " ",
    "\\",
]


@pytest.mark.parametrize("unit", [*UNITS, " and", "*", "\n", "\u0301", "\u4e00", "_", "#", "-1."])
def test_the_gold_of_a_long_text_is_found_or_refused_soon(tmp_path: Path, unit: str) -> None:
    text = f"\\boxed{{1}}{(unit * 99_000)[:99_000]}\\boxed{{2}}"
    ingested(write(tmp_path / "p.jsonl", f"{row(answer=text)}\n{row('r', answer=text[9:-9])}"))


def test_a_family_and_a_level_that_are_none_are_left_out(tmp_path: Path) -> None:
    lines = [
        row("a", family="f" * 1_000_000, level="9" * 100_000),
        row("b", family={"x": 1}, level=[5]),
        row("c", type=7, level=10**4000),
        row("d", family="ages", level="Level 3"),
    ]
    found = ingested(write(tmp_path / "p.jsonl", "\n".join(lines))).problems["train"]
    assert [(p.family, p.level) for p in found] == [(None, None)] * 3 + [("ages", 3)]


def test_columns_nobody_asked_for_may_hold_anything(tmp_path: Path) -> None:
    moments = pa.array([datetime.datetime(2026, 1, 1)], pa.timestamp("ns"))
    data = parquet(["question", "answer", "when", "far"], ["q"], [2], moments, FAR)
    result = ingested(write(tmp_path / "p.parquet", data))
    assert [(p.question, p.answer) for p in result.problems["train"]] == [("q", "2")]
    assert result.unused["train"] == ("when", "far")


def test_memory_does_not_grow_with_rows_that_are_rejected_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sphere_ray.problems.ingest._MAX_LISTED", 10)
    result = ingested(write(tmp_path / "p.jsonl", f"{GOOD}\n" + "x\n" * 1000))
    assert result.dropped == {"broken_row": 1000}
    assert len(result.rejected) == 10
    with pytest.raises(ProblemSourceError, match="1000 of 1001 rows were rejected, 1000 of them"):
        require_usable(result, 0.2, "rejected/rows.jsonl")


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.parquet", "p.jsonl.gz"])
@given(data=st.binary(max_size=300))
def test_any_bytes_are_rows_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("any") / name, data)
    try:
        ingested(path)
    except ProblemSourceError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


PIECES = [
    *(*UNITS, " and", "*", "\n", "\u0301", "\u4e00", "_", "-1.", "apple ", "7 ", "(", ")", ","),
    *("A. ", "(B) ", "$x$", "\\text{", "\\\\", "\\frac", "answer: ", "So ", "\ud83d", "\0"),
]  # fmt: skip


@settings(max_examples=40)
@given(*[repeated(PIECES, 1 << 15)] * 3)
def test_any_long_row_is_read_in_linear_time(
    tmp_path_factory: pytest.TempPathFactory, question: str, answer: str, family: str
) -> None:
    folder = tmp_path_factory.mktemp("long")
    lines = [row(question[:size], answer, family=family) for size in (4000, 7000, len(question))]
    paths = [write(folder / f"{name}.jsonl", "\n".join(lines)) for name in ("test", "train")]
    with linear_time(6 * len(question + answer + family), micros_a_char=60, seconds=2):
        splits = {p.stem: SplitSettings(source=f"file:{p}") for p in paths}
        result = ingest_splits(splits)
    assert result.report()


@given(st.lists(st.tuples(values, values, values, values), max_size=8))
def test_any_values_become_problems_or_rejected_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Any, Any, Any]]
) -> None:
    lines = [row(q, a, family=family, level=level) for q, a, family, level in rows]
    path = write(tmp_path_factory.mktemp("any") / "p.jsonl", "\n".join(lines))
    for query in ("", "?question=question,family", "?answer=answer.a.0", "?choices=family"):
        result = ingested(path, query)
        assert all(p.question and p.answer for p in result.problems["train"])
