import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.problems import ProblemSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.fields import Reason
from sphere_ray.problems.ingest import (
    SPLITS,
    IngestResult,
    ingest,
    rejected_lines,
    require_usable,
)
from sphere_ray.problems.rows import RawRow
from sphere_ray.records import Problem
from sphere_ray.untrusted import normalise

Row = dict[str, Any]


def settings(**changes: Any) -> ProblemSettings:
    splits = {split: {"source": split} for split in ("train", "validation", "test")}
    return ProblemSettings.model_validate(splits | changes)


def reader(splits: dict[str, list[Row]]) -> Callable[[str], Iterator[RawRow]]:
    def read(source: str) -> Iterator[RawRow]:
        for number, values in enumerate(splits.get(source, []), start=1):
            yield RawRow(origin=f"{source}:{number}", values=values)

    return read


def run(train: list[Row], **others: list[Row]) -> IngestResult:
    return ingest(settings(), reader({"train": train, **others}))


def qa(question: str, answer: Any = "1") -> Row:
    return {"question": question, "answer": answer}


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("18", "18"),
        ("16 - 3 = 13 eggs.\n13 * 2 = $26.\n#### 26", "26"),
        ("Hence $x = \\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("We count five.\nThe answer is: 5", "5"),
        (18, "18"),
        (18.0, "18"),
        (0.5, "0.5"),
        (" 7 \n", "7"),
    ],
)
def test_the_bare_gold_is_kept(answer: Any, gold: str) -> None:
    assert run([qa("q", answer)]).problems["train"][0].answer == gold


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "1"}, Reason.MISSING_QUESTION),
        ({"question": None, "answer": "1"}, Reason.MISSING_QUESTION),
        (qa(""), Reason.EMPTY_QUESTION),
        (qa(" \n\t \x00"), Reason.EMPTY_QUESTION),
        ({"question": ["q"], "answer": "1"}, Reason.QUESTION_NOT_TEXT),
        (qa("x" * 10_000), Reason.QUESTION_TOO_LONG),
        (qa("half a pair: \ud83d"), Reason.INVALID_UNICODE),
        ({"question": "q"}, Reason.MISSING_ANSWER),
        (qa("q", None), Reason.MISSING_ANSWER),
        (qa("q", "  "), Reason.EMPTY_ANSWER),
        (qa("q", "\ud83d"), Reason.INVALID_UNICODE),
        (qa("q", [{"a": "1"}]), Reason.ANSWER_NOT_TEXT),
        (qa("q", ["1"] * 1000), Reason.ANSWER_NOT_TEXT),
        (qa("q", []), Reason.EMPTY_ANSWER),
        (qa("q", ["1", " "]), Reason.EMPTY_ANSWER),
        (qa("q", int("9" * 4000)), Reason.NO_FINAL_ANSWER),
        (qa("q", "because " * 100_000), Reason.NO_FINAL_ANSWER),
        (qa("a" + "\u0301\u0323" * 500), Reason.INVALID_UNICODE),
        (qa("q") | {"family": "\udc80"}, Reason.INVALID_UNICODE),
        (qa("q", True), Reason.ANSWER_NOT_TEXT),
        (qa("q", float("nan")), Reason.ANSWER_NOT_TEXT),
        (qa("q", "because " * 100), Reason.NO_FINAL_ANSWER),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason_and_origin(row: Row, reason: Reason) -> None:
    result = run([qa("good"), row])
    assert [p.question for p in result.problems["train"]] == ["good"]
    (rejected,) = result.rejected
    assert (rejected.split, rejected.origin, rejected.reason) == ("train", "train:2", reason)
    assert json.loads(rejected_lines(result.rejected))["reason"] == reason.value


def test_an_unreadable_row_is_rejected_with_its_text() -> None:
    def read(source: str) -> Iterator[RawRow]:
        yield RawRow(origin="f:1", error="not valid JSON: line 1", text='{"question')

    result = ingest(settings(), read)
    assert result.rejected[0].reason is Reason.BROKEN_ROW
    assert result.rejected[0].detail == "not valid JSON: line 1"
    assert result.rejected[0].raw == '{"question'


def test_family_and_level_are_kept() -> None:
    rows = [
        qa("a") | {"family": "ages", "level": 2},
        qa("b") | {"type": "Algebra", "level": "Level 5"},
    ]
    problems = run([*rows, qa("c") | {"level": "hard"}]).problems["train"]
    assert [(p.family, p.level) for p in problems] == [("ages", 2), ("Algebra", 5), (None, None)]


def test_equal_questions_count_once() -> None:
    result = run([qa("How  many?"), qa("How many? "), qa("Caf\u00e9"), qa("Cafe\u0301")])
    assert len(result.problems["train"]) == 2
    assert result.dropped == {"duplicate": 2}


def test_a_question_with_two_answers_is_no_problem_for_nobody_knows_which_is_right() -> None:
    result = run([qa("q", "1"), qa("q", "2"), qa("r", "3"), qa("q", "1")])
    assert [p.question for p in result.problems["train"]] == ["r"]
    assert result.dropped == {"conflicting_answer": 3}
    assert [r.origin for r in result.rejected] == ["train:1", "train:2", "train:4"]
    assert "'2'" in result.rejected[0].detail
    assert "'1'" in result.rejected[1].detail


@pytest.mark.parametrize("again", ["0.5", "\\frac{1}{2}", "\\boxed{1/2}"])
def test_equal_golds_in_two_spellings_are_no_conflict(again: str) -> None:
    result = run([qa("q", "1/2"), qa("q", again)])
    assert [p.answer for p in result.problems["train"]] == ["1/2"]
    assert result.dropped == {"duplicate": 1}


def test_training_never_sees_a_held_out_question() -> None:
    result = run(
        [qa("a"), qa("b"), qa("c", "other")], validation=[qa("b"), qa("d")], test=[qa("c"), qa("d")]
    )
    kept = {split: [p.question for p in ps] for split, ps in result.problems.items()}
    assert kept == {"train": ["a"], "validation": ["b"], "test": ["c", "d"]}
    assert result.dropped == {"in_held_out_split": 3}


def test_a_question_that_leaves_no_room_for_an_answer_is_rejected_in_every_split() -> None:
    rows = {split: [qa(f"{split} fits"), qa(f"{split} is too long")] for split in SPLITS}
    result = ingest(
        settings(), reader(rows), count_tokens=lambda text: 90 + len(text.split()), max_tokens=92
    )
    kept = {split: [p.question for p in problems] for split, problems in result.problems.items()}
    assert kept == {split: [f"{split} fits"] for split in SPLITS}
    assert result.dropped == {"question_too_long": 3}
    assert {r.detail for r in result.rejected} == {
        "its prompt has 94 tokens, and there is room for 92"
    }


def test_a_limit_keeps_the_first_valid_problems_and_reads_no_further() -> None:
    def read(source: str) -> Iterator[RawRow]:
        for row in (qa("a"), qa(""), qa("a"), qa("b")):
            yield RawRow(origin=source, values=row)
        pytest.fail("read beyond the limit")

    limited = {s: {"source": s, "limit": 2} for s in ("train",)}
    rows = reader({"validation": [qa("v")], "test": [qa("t")]})
    result = ingest(settings(**limited), lambda s: read(s) if s == "train" else rows(s))
    assert [p.question for p in result.problems["train"]] == ["a", "b"]
    assert result.rows["train"] == 4


@pytest.mark.parametrize("bad", [3, 4, 5])
def test_too_many_bad_rows_refuse_the_source(bad: int) -> None:
    rows = [qa(f"q{i}") for i in range(10 - bad)] + [{"question": f"n{i}"} for i in range(bad)]
    allowed = settings(max_rejected_share=0.4)
    result = ingest(allowed, reader({"train": rows, "validation": [qa("v")], "test": [qa("t")]}))
    if bad <= 4:
        require_usable(result, allowed.max_rejected_share, "runs/x/rejected")
        return
    with pytest.raises(ProblemSourceError) as caught:
        require_usable(result, allowed.max_rejected_share, "runs/x/rejected")
    assert str(caught.value) == (
        "problems.train (train): 5 of 10 rows were rejected, 5 of them for missing answer "
        "(first: train:6); see runs/x/rejected, correct the source, "
        "or raise problems.max_rejected_share (now 0.4)"
    )


def test_duplicates_do_not_refuse_a_source() -> None:
    result = run([qa("q")] * 10, validation=[qa("v")], test=[qa("t")])
    require_usable(result, settings().max_rejected_share, "rejected")


def test_a_split_without_rows_or_without_problems_is_refused() -> None:
    with pytest.raises(ProblemSourceError, match=r"problems\.train \(train\) has no rows"):
        require_usable(
            run([], validation=[qa("v")], test=[qa("t")]), settings().max_rejected_share, "rejected"
        )
    result = run([qa("t")], validation=[qa("v")], test=[qa("t")])
    with pytest.raises(ProblemSourceError, match="none of 1 rows is left, 1 of them for in held"):
        require_usable(result, settings().max_rejected_share, "rejected")


def test_an_identity_depends_on_question_and_answer_only(tmp_path: Path) -> None:
    one = run([qa("q", "1") | {"family": "a"}]).problems["train"][0]
    elsewhere = run([], test=[qa("q ", 1)]).problems["test"][0]
    other = run([qa("q", "2")]).problems["train"][0]
    assert one.problem_id == elsewhere.problem_id
    assert one.problem_id != other.problem_id


def test_files_and_reasons_meet(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": 1}\n{"question": \n')
    for split in ("validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(qa(split)))
    splits = {s: {"source": f"file:{tmp_path}/{s}.jsonl"} for s in ("train", "validation", "test")}
    result = ingest(ProblemSettings.model_validate(splits))
    assert len(result.problems["train"]) == 1
    assert result.rejected[0].origin == f"{tmp_path}/train.jsonl:2"


texts = st.text(max_size=60)
answers = texts | st.sampled_from(
    ["#### 4", "\\boxed{1}", "\\boxed{\\boxed{2}}", "the answer is \\boxed{3", "**5**", "{", "a}"]
)
rows_of_text = st.lists(st.builds(qa, texts, st.lists(answers, max_size=3).map(" ".join)))


@given(texts)
def test_normalise_is_idempotent_and_leaves_composed_text(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.strip()
    assert unicodedata.is_normalized("NFC", once)


def as_row(problem: Problem) -> Row:
    return qa(problem.question, problem.answer)


@given(rows_of_text)
def test_ingesting_the_output_again_changes_nothing(rows: list[Row]) -> None:
    first = run(rows).problems["train"]
    again = run([as_row(p) for p in first])
    assert again.problems["train"] == first
    assert not again.rejected


@given(rows_of_text, rows_of_text, rows_of_text)
def test_every_row_is_kept_or_rejected_and_no_question_is_kept_twice(
    train: list[Row], validation: list[Row], test: list[Row]
) -> None:
    result = run(train, validation=validation, test=test)
    kept = [p for problems in result.problems.values() for p in problems]
    assert len(kept) + len(result.rejected) == len(train) + len(validation) + len(test)
    assert len({p.question for p in kept}) == len(kept)
    assert len({p.problem_id for p in kept}) == len(kept)
    assert sum(result.dropped.values()) == len(result.rejected)


@given(rows_of_text)
def test_doubling_the_rows_adds_duplicates_only(rows: list[Row]) -> None:
    once, twice = run(rows), run([*rows, *rows])
    assert once.problems["train"] == twice.problems["train"]
