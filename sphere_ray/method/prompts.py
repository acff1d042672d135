"""Templates to chat messages: the plain question, and the question with a failed attempt."""

import re

from sphere_ray.config.method import PromptSettings
from sphere_ray.records import Message


def question_messages(question: str, settings: PromptSettings) -> tuple[Message, ...]:
    """Return the plain prompt: what the policy is searched, trained and evaluated with."""
    return (*_preamble(settings), _user(settings.question, question=question))


def correction_messages(
    question: str, attempt: str, settings: PromptSettings
) -> tuple[Message, ...]:
    """Return the prompt that shows a failed attempt and asks for its mistake and a new solution."""
    return (
        *_preamble(settings),
        _user(settings.correction, question=question, attempt=attempt.strip()),
    )


def _preamble(settings: PromptSettings) -> tuple[Message, ...]:
    system = (Message(role="system", content=settings.system),) if settings.system else ()
    turns = (
        turn
        for example in settings.examples
        for turn in (
            _user(settings.question, question=example.question),
            Message(role="assistant", content=example.response),
        )
    )
    return (*system, *turns)


def _user(template: str, **values: str) -> Message:
    # One pass and no str.format: questions and attempts are full of braces of their own.
    names = "|".join(values)
    content = re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], template)
    return Message(role="user", content=content)
