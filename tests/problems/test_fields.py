"""What the columns of a row say: parts, chats, lists, choices; and what is told about it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.problems import SplitSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.fields import Reason, RefusedError, gold_of, question_of
from sphere_ray.problems.ingest import ingest_splits
from sphere_ray.problems.rows import Columns, RawRow, parse_options

Row = dict[str, Any]


def read(row: Row, query: str = "") -> tuple[str, str, Counter[str]]:
    options = parse_options("file:x", query, ("question", "answer", "choices", "grade"))
    raw = RawRow(origin="x:1", values=row, columns=Columns.of("file:x", options))
    did = Counter[str]()
    return question_of(raw, did), gold_of(raw, did), did


def refused(row: Row, query: str = "") -> Reason:
    with pytest.raises(RefusedError) as caught:
        read(row, query)
    return caught.value.reason


VERL = {
    "data_source": "math_dapo",
    "prompt": [{"role": "user", "content": "2+2?"}],
    "reward_model": {"ground_truth": "4", "style": "rule"},
    "extra_info": {"index": "a1"},
}


def test_rows_of_verl_are_read_without_a_word() -> None:
    question, gold, did = read(VERL)
    assert (question, gold) == ("2+2?", "4")
    assert did["questions taken out of a chat"] == 1


def test_a_path_goes_into_columns() -> None:
    row = {"q": {"text": ["no", "How many?"]}, "a.b": "5", "r": {"gt": "6"}}
    assert read(row, "question=q.text.1&answer=r.gt")[:2] == ("How many?", "6")
    assert read(row, "question=q.text.1&answer=a.b")[1] == "5"  # the column, not the path
    for path in ("r.gt.x", "r.0", "q.text.7", "q.text.x", "q.text." + "9" * 5000, "none.x"):
        assert refused(row, f"question=q.text.1&answer={path}") is Reason.MISSING_ANSWER


def test_a_system_turn_is_left_out_and_counted() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    question, _, did = read({"prompt": turns, "answer": "4"})
    assert question == "2+2?"
    assert did["system turns left out"] == 1


def test_parts_are_joined_in_the_order_named() -> None:
    row = {"body": "Ann has 2 pens.", "question": "How many?", "answer": "2"}
    question, _, did = read(row, "question=body,question")
    assert question == "Ann has 2 pens.\nHow many?"
    assert did["questions from body"] == did["questions from question"] == 1
    question, _, did = read(row | {"body": None}, "question=body,question")
    assert question == "How many?"
    assert did["questions without one of their parts"] == 1


def test_a_part_that_was_not_named_is_asked_for_unless_the_question_was_named_alone() -> None:
    row = {"body": "Ann has 2 pens.", "question": "How many?", "answer": "2"}
    with pytest.raises(ProblemSourceError, match=r"\?question=body,question to join them"):
        read(row)
    assert read(row, "question=question")[0] == "How many?"
    assert read(row | {"body": " "})[0] == "How many?"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (["2"], "2"),
        (["$2$", 3], "$2$, 3"),
        (["2", "2"], "2"),
        ([7.0], "7"),
        (["We get \\boxed{4}"], "4"),
        (["(1,2)", "(3,4)"], "(1,2), (3,4)"),
    ],
)
def test_lists_of_answers(answer: list[Any], gold: str) -> None:
    assert read({"question": "q", "answer": answer})[1] == gold


@pytest.mark.parametrize("blank", [None, "", " \n", []])
def test_a_blank_answer_gives_way_to_the_solution(blank: Any) -> None:
    row = {"question": "q", "answer": blank, "solution": "So it is \\boxed{4}."}
    _, gold, did = read(row)
    assert gold == "4"
    assert did["golds from solution"] == did["golds taken out of a longer text"] == 1


CHOICES = ["A)36", "B)15", "C)17"]


@pytest.mark.parametrize(
    ("choices", "answer", "letter", "value"),
    [
        (CHOICES, "B", "B", "15"),
        (CHOICES, "(b)", "B", "15"),
        (CHOICES, "15", "B", "15"),
        (CHOICES, "B) 15", "B", "15"),
        (CHOICES, ["C"], "C", "17"),
        (["36", "15", "17"], 2, "C", "17"),
        (["3", "1", "2"], 1, "B", "1"),
        ([36, 15, 17], "C.", "C", "17"),
        ({"A": "36", "B": "15", "C": None}, "A", "A", "36"),
        (["(A) x", "(B) y"], "y", "B", "y"),
    ],
)
def test_choices_are_shown_and_graded_as_letters_or_values(
    choices: Any, answer: Any, letter: str, value: str
) -> None:
    row = {"question": "Which?", "options": choices, "answer": answer}
    question, gold, _ = read(row, "choices=options")
    assert gold == letter
    assert f"({letter}) {value}" in question.splitlines()
    question, gold, _ = read(row, "choices=options&grade=values")
    assert gold == value
    assert question.startswith("Which?\nThe answer is one of: ")
    assert f"({letter})" not in question


@pytest.mark.parametrize(
    ("choices", "answer", "reason"),
    [
        (CHOICES, "D", Reason.ANSWER_NO_CHOICE),
        (CHOICES, 3, Reason.ANSWER_NO_CHOICE),
        (CHOICES, ["A", "B"], Reason.ANSWER_NO_CHOICE),
        (["1", "3", "2"], 1, Reason.ANSWER_NO_CHOICE),  # the text of A, the number of B
        (["x", "x"], "x", Reason.ANSWER_NO_CHOICE),
        (["one"], "A", Reason.BAD_CHOICES),
        ([str(i) for i in range(30)], "A", Reason.BAD_CHOICES),
        ("A, B", "A", Reason.BAD_CHOICES),
        ({"x": "1", "y": "2"}, "x", Reason.BAD_CHOICES),
        ([["1"], "2"], "A", Reason.BAD_CHOICES),
        (["a" * 5000, "b"], "A", Reason.BAD_CHOICES),
        (["1", "2"], None, Reason.MISSING_ANSWER),
    ],
)
def test_what_could_be_read_in_two_ways_is_no_choice(
    choices: Any, answer: Any, reason: Reason
) -> None:
    row = {"question": "Which?", "options": choices, "answer": answer}
    assert refused(row, "choices=options") is reason


@given(
    st.lists(st.text("ABCxyz123 ().", min_size=1, max_size=6), min_size=2, max_size=5), st.data()
)
def test_the_letter_of_a_choice_always_means_that_choice(texts: list[str], data: Any) -> None:
    place = data.draw(st.integers(0, len(texts) - 1))
    row = {"question": "Which?", "options": texts, "answer": "ABCDE"[place]}
    try:
        gold = read(row, "choices=options")[1]
    except RefusedError:
        return  # another choice has that letter for its text, or its text is blank
    assert gold == "ABCDE"[place]


def test_nested_columns_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist([VERL | {"final": ["4", "5"]}]), path)
    for query, gold in (
        ("", "4"),
        ("?answer=reward_model.ground_truth", "4"),
        ("?answer=final", "4, 5"),
    ):
        found = ingest_splits({"test": SplitSettings(source=f"file:{path}{query}")})
        assert [(p.question, p.answer) for p in found.problems["test"]] == [("2+2?", gold)]


def test_what_was_done_is_told_with_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"body": "B.", "question": "How many?", "answer": ["5"], "idx": 1}\n'
        '{"body": null, "question": "Which?", "answer": ["6", "7"], "note": 2}\n'
        '{"body": "B.", "question": "Why?", "answer": null}\n'
    )
    source = f"file:{path}?question=body,question"
    told = ingest_splits({"test": SplitSettings(source=source)}).report()
    assert told[0].startswith(f"test: 2 problems from 3 rows of {source}; ")
    for fact in (
        "1 questions without one of their parts",
        "1 golds out of a list of one",
        "1 golds out of a list of several, joined",
        "1 rejected: missing answer",
        "columns not used: idx, note",
    ):
        assert fact in told[0]
    assert told[1] == "test, for example: B. How many? [gold: 5]"
