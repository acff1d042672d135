"""Templates to chat messages: the plain question, and the question with a failed attempt."""

import re

from sphere_ray.config.method import PromptSettings
from sphere_ray.records import Message

_ATTEMPT = re.compile(
    r"\b(?:previous|earlier|original|prior|initial|above|wrong|incorrect|failed)"
    r"\s+(?:attempt|solution|answer|response|reasoning|calculation|approach|work|statement)s?\b"
    r"|\battempts?\b|\b(?:mistake|error)s?\b|\bmistaken(?:ly)?\b"
    r"|\b(?:was|were|is|are)\s+(?:wrong|incorrect|not\s+correct)\b"
    r"|\bapolog(?:y|ies|ize|ise)\b|\bcorrected\b|\bcorrect(?:ing)?\s+(?:the|this|that|it)\b"
    r"|\bsolve\s+\w+(?:\s+\w+)?\s+again\b|\btry\s+again\b|\bstart(?:ing)?\s+over\b"
    r"|\bre-?(?:solve|solving|do|try|examine|check|consider)\b",
    re.IGNORECASE,
)


def question_messages(question: str, settings: PromptSettings) -> tuple[Message, ...]:
    """Return the plain prompt: what the policy is searched, trained and evaluated with."""
    return (*_preamble(settings), _user(settings.question, question=question))


def correction_messages(
    question: str, attempt: str, settings: PromptSettings
) -> tuple[Message, ...]:
    """Return the prompt that shows a failed attempt and asks for its mistake and a new solution."""
    worked = (
        turn
        for example in settings.correction_examples
        for turn in (
            _user(settings.correction, question=example.question, attempt=example.attempt.strip()),
            Message(role="assistant", content=example.response),
        )
    )
    return (
        *_preamble(settings),
        *worked,
        _user(settings.correction, question=question, attempt=attempt.strip()),
    )


def refers_to_attempt(text: str) -> bool:
    """Whether a corrected solution speaks of the attempt, which the trained prompt never shows.

    The words are English, like the default correction prompt.
    """
    return _ATTEMPT.search(text) is not None


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
