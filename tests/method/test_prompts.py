import re

import pytest

from sphere_ray.config.method import CorrectionExample, Example, PromptSettings
from sphere_ray.method.prompts import correction_messages, question_messages


def spoken(messages):
    return [(message.role, message.content) for message in messages]


def test_system_then_examples_as_turns_then_the_question():
    settings = PromptSettings(
        system="Be exact.",
        question="Q: {question}",
        examples=(Example(question="1+1?", response="#### 2"),),
    )
    assert spoken(question_messages("2+2?", settings)) == [
        ("system", "Be exact."),
        ("user", "Q: 1+1?"),
        ("assistant", "#### 2"),
        ("user", "Q: 2+2?"),
    ]


def test_a_bare_question_by_default():
    assert spoken(question_messages("2+2?", PromptSettings())) == [("user", "2+2?")]


def test_the_correction_shows_question_and_attempt():
    (message,) = correction_messages("2+2?", "It is 5.\n\n", PromptSettings())
    assert "2+2?" in message.content
    assert "It is 5.\n\nFind" in message.content


def test_examples_come_before_a_correction_too():
    settings = PromptSettings(examples=(Example(question="1+1?", response="#### 2"),))
    roles = [message.role for message in correction_messages("2+2?", "5", settings)]
    assert roles == ["user", "assistant", "user"]


def test_braces_of_the_question_are_text():
    settings = PromptSettings(correction="{question} / {attempt}")
    (message,) = correction_messages(r"Is \{attempt} in {0} {attempt}?", r"\1 {question}", settings)
    assert message.content == r"Is \{attempt} in {0} {attempt}? / \1 {question}"


@pytest.mark.parametrize(
    ("templates", "missing"),
    [
        ({"question": "Solve it."}, "question lacks {question}"),
        ({"correction": "Try again: {question}"}, "correction lacks {attempt}"),
        ({"correction": "Try again: {attempt}"}, "correction lacks {question}"),
    ],
)
def test_a_template_that_leaves_out_the_question_or_the_attempt_is_refused(templates, missing):
    with pytest.raises(ValueError, match=re.escape(missing)):
        PromptSettings(**templates)


def test_a_worked_correction_comes_before_the_attempt_and_never_before_a_plain_question():
    example = CorrectionExample(question="1+1?", attempt=" 3\n", response="2")
    settings = PromptSettings(correction="{question}|{attempt}", correction_examples=(example,))
    worked, answer, asked = correction_messages("2+2?", "5", settings)
    assert (worked.role, worked.content) == ("user", "1+1?|3")
    assert (answer.role, answer.content) == ("assistant", "2")
    assert asked.content == "2+2?|5"
    assert [m.content for m in question_messages("2+2?", settings)] == ["2+2?"]
