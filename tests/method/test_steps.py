import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.method import SearchSettings
from sphere_ray.method.steps import is_final, is_plausible, join_steps, split_steps
from sphere_ray.records import StopReason

from .fakes import candidate

TEXT = st.text(alphabet="ab\n ", max_size=40)


@given(TEXT, st.sampled_from(["\n\n", "\n", "ab"]))
def test_joining_undoes_splitting(text, boundary):
    steps = split_steps(text, boundary)
    assert join_steps(steps) == text
    assert all(steps)
    assert all(step.endswith(boundary) and step.count(boundary) == 1 for step in steps[:-1])


def test_the_boundary_stays_with_its_step():
    assert split_steps("a\n\nb\n\n", "\n\n") == ("a\n\n", "b\n\n")
    assert split_steps("a\n\nb", "\n\n") == ("a\n\n", "b")
    assert split_steps("", "\n\n") == ()


@pytest.mark.parametrize(
    ("text", "stop", "plausible"),
    [
        ("one\n\n", StopReason.BOUNDARY, True),
        ("#### 4", StopReason.END, True),
        ("one two", StopReason.LENGTH, False),
        ("\n\n", StopReason.BOUNDARY, False),
        ("", StopReason.END, False),
        ("x" * 11 + "\n\n", StopReason.BOUNDARY, False),
    ],
)
def test_plausible_is_ended_not_empty_and_short_enough(text, stop, plausible):
    settings = SearchSettings(max_step_tokens=12)
    assert is_plausible(candidate(text, stop), settings) is plausible


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
    ],
)
def test_a_stated_answer_ends_a_chain(text):
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
