import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.grading import extract_answer
from sphere_ray.method.steps import is_final, is_plausible
from sphere_ray.records import StopReason

from .fakes import candidate


@pytest.mark.parametrize(
    ("text", "stop", "plausible"),
    [
        ("one\n\n", StopReason.BOUNDARY, True),
        ("#### 4", StopReason.END, True),
        ("one two", StopReason.LENGTH, False),
        ("\n\n", StopReason.BOUNDARY, False),
        ("", StopReason.END, False),
    ],
)
def test_plausible_is_ended_by_itself_and_not_empty(text, stop, plausible):
    assert is_plausible(candidate(text, stop)) is plausible


@pytest.mark.parametrize(
    "text",
    [
        r"so \boxed{4}.",
        r"so \boxed{\frac{1}{\sqrt{2}}} apples",
        r"thus \boxed{\{1, 2\}}",
        r"thus \boxed{\left\{ 1 \right.}",
        "#### 4",
        "We add.\n#### 1,234",
        "The answer is 18.",
        "So the final answer is: **$18**",
        r"Therefore, the answer is \(x = 2\)",
        "The answer is x = 2.",
        "**Answer:** 18",
        "Final answer: -3",
        "The answer is Monday.",
        "So the answer is **New York City**.",
        "Answer: (B)",
        "**Answer**: 18",
        "The correct answer is (C).",
        "The answer is **blue**.",
        "Final answer: Yes",
        "Therefore, the answer is no.",
    ],
)
def test_a_stated_answer_ends_a_chain_and_is_what_the_grader_finds(text):
    assert extract_answer(text)
    assert is_final(candidate(text + "\n\n", StopReason.BOUNDARY))
    assert not is_final(candidate(text, StopReason.LENGTH))


@pytest.mark.parametrize(
    "text",
    [
        r"so \boxed{4",
        r"so \boxed{\{4\}",
        r"so \boxed{4 \}",
        "####",
        "We look for the answer.",
        "The answer is the sum of both numbers:",
        "The answer is the sum of Ann's and Bob's apples.",
        "The answer is not yet known.",
        "Now the answer is clear.",
        "The answer is Monday or Tuesday, so we check both",
        "Answer: First we add the numbers",
        "The answer is Ann:",
        "The answer is 5 for Ann.\nFor Bob we go on.",
        "To answer this, first add 2 and 2",
        "Step 1: 2 + 2 = 4",
    ],
)
def test_reasoning_goes_on(text):
    assert not is_final(candidate(text + "\n\n", StopReason.BOUNDARY))


def test_end_of_sequence_is_final_whatever_the_text():
    assert is_final(candidate("I give up", StopReason.END))


@given(st.text(alphabet="\\boxed{}# 4\n", max_size=60))
def test_any_text_gets_a_verdict(text):
    assert is_final(candidate(text, StopReason.BOUNDARY)) in (True, False)
