"""Which decisions of people count, by a naive account of the same lines."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.errors import ConfigError
from sphere_ray.method.audit import NOTHING
from sphere_ray.reward.judgements import AuditLine, Judged, Standing, audit_lines, audit_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def about_pair(pair: str, decision: Any, *, who: str = "ann", at: int = 0) -> AuditLine:
    return AuditLine(
        when=START + timedelta(seconds=at),
        who=who,
        iteration=0,
        problem_id="p",
        pair_id=pair,
        stage="self_generation",
        decision=decision,
        sides=(Judged(chain_id="a", text_id="1"), Judged(chain_id="b", text_id="2")),
    )


def about_text(text: str, decision: Any, *, who: str = "ann", at: int = 0) -> AuditLine:
    return AuditLine(
        when=START + timedelta(seconds=at),
        who=who,
        iteration=0,
        problem_id="p",
        chain_id="a",
        stage="self_generation",
        decision=decision,
        sides=(Judged(chain_id="a", text_id=text),),
    )


def lines_of(steps: list[tuple[bool, str, str, str]]) -> list[AuditLine]:
    return [
        (about_pair if is_pair else about_text)(
            item, {"yes": ("accept", "correct"), "no": ("reject", "wrong")}[does][not is_pair]
            if does in ("yes", "no") else does, who=who, at=at,
        )
        for at, (is_pair, item, does, who) in enumerate(steps)
    ]  # fmt: skip


STEPS = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from(["x", "y"]),
        st.sampled_from(["yes", "no", "comment", "undo"]),
        st.sampled_from(["ann", "bob"]),
    ),
    max_size=25,
)


@given(STEPS)
def test_the_last_decision_counts_that_its_author_did_not_take_back(
    steps: list[tuple[bool, str, str, str]],
) -> None:
    steps = [(is_pair, item + str(is_pair), does, who) for is_pair, item, does, who in steps]
    left: list[tuple[str, str, str]] = []
    for _, item, does, who in steps:
        if does == "undo":
            for index in reversed(range(len(left))):
                if left[index][0] == item and left[index][2] == who:
                    del left[index]
                    break
        elif does != "comment":
            left.append((item, does, who))
    expected = {item: does for item, does, _ in left}
    standing = Standing(lines_of(steps))
    meaning = {"accept": "yes", "correct": "yes", "reject": "no", "wrong": "no"}
    assert {item: meaning[line.decision] for item, line in standing.lines.items()} == expected
    own = [item for item, _, who in left if who == "ann"]
    last = standing.last_of("ann")
    assert (last.item if last else None) == (own[-1] if own else None)


@given(STEPS)
def test_lines_survive_the_file(steps: list[tuple[bool, str, str, str]]) -> None:
    lines = lines_of(steps)
    text = "".join(f"{line.model_dump_json(exclude_none=True)}\n" for line in lines)
    assert audit_lines(text, "a") == lines
    assert audit_of(audit_lines(text, "a")) == audit_of(lines)


def test_nothing_decided_is_no_input() -> None:
    taken_back = [about_pair("x", "reject"), about_pair("x", "undo"), about_pair("y", "comment")]
    assert audit_of(taken_back) == NOTHING
    assert NOTHING.inputs() == NOTHING.label_inputs() == {}


def test_who_and_when_are_no_part_of_the_input_but_decisions_are() -> None:
    one, other = (
        audit_of([about_pair("x", "reject", who=who, at=at)])
        for who, at in (("ann", 0), ("bob", 9))
    )
    assert one.inputs() == other.inputs() != audit_of([about_pair("x", "accept")]).inputs()
    assert one.label_inputs() == {}  # labels know no pairs
    verdict = audit_of([about_text("t", "wrong")])
    assert verdict.label_inputs() != audit_of([about_text("t", "correct")]).label_inputs()


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("{", "line 2: Invalid JSON"),
        ("{}", "line 2: when: Field required"),
        ('{"decision": "maybe"}', "line 2: "),
        (about_pair("x", "accept").model_dump_json().replace("accept", "wrong"), "about a pair"),
        (
            about_text("x", "wrong").model_dump_json().replace('"wrong"', '"reject"'),
            "about a chain",
        ),
        (about_pair("x", "accept").model_dump_json()[:-1] + ',"more":1}', "more: Extra inputs"),
    ],
)
def test_a_broken_line_is_one_sentence_with_its_number(line: str, trouble: str) -> None:
    text = f"{about_pair('x', 'accept').model_dump_json()}\n{line}\n"
    with pytest.raises(ConfigError, match=trouble) as caught:
        audit_lines(text, "my/audit.jsonl")
    message = str(caught.value)
    assert message.startswith("my/audit.jsonl, line 2: ")
    assert message.endswith("; correct or remove this line")
    assert "\n" not in message
