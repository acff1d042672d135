"""Chat messages to token ids, and ids back to text: the one place that says how."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from sphere_ray.errors import ModelError
from sphere_ray.records import Message

_TODAY = datetime(2024, 7, 26, tzinfo=UTC)
"""Today in every chat template (Llama 3's own default), so that a prompt is the same every day."""
_STAND_INS = 0xF0000
"""From here on Unicode has private characters, which stand for texts that are no control tokens."""
_PROBE = "Some words."


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Raises:
        ModelError: there is none, or it has no chat template.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"model {path}: its tokenizer cannot be loaded: {reason}") from error
    if tokenizer.chat_template is None:
        raise ModelError(
            f"model {path} has no chat template; use an instruction-tuned model, or add a "
            "chat_template.jinja to its directory"
        )
    return tokenizer  # type: ignore[no-any-return]  # AutoTokenizer has no types


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...]
) -> tuple[int, ...]:
    """Token ids of `messages` up to where the assistant's turn begins.

    Only the chat template writes control tokens: a message that holds the text of one stays text.
    Where the template writes no system message (Gemma's) its text begins the user's first one.

    Raises:
        ModelError: the chat template refuses the messages.
    """
    if messages[0].role == "system" and not _writes_system(tokenizer):
        system, user, *rest = messages
        user = Message(role="user", content=f"{system.content.strip()}\n\n{user.content}")
        messages = (user, *rest)
    found: dict[str, str] = {}

    def hide(match: re.Match[str]) -> str:
        return found.setdefault(match[0], chr(_STAND_INS + len(found)))

    control = _control(tokenizer)
    hidden = [Message(role=m.role, content=control.sub(hide, m.content)) for m in messages]
    text = _rendered(tokenizer, hidden, add_generation_prompt=True)
    if not found:
        return _read(tokenizer, text)
    quoted = {stand_in: text_ids(tokenizer, words) for words, stand_in in found.items()}
    parts = re.split(f"([{''.join(quoted)}])", text)
    return tuple(i for part in parts for i in quoted.get(part) or _read(tokenizer, part))


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text by itself, without special tokens: none are added, and none read."""
    ids: Any = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return tuple(ids)


def end_ids(tokenizer: PreTrainedTokenizerBase, path: str) -> tuple[int, ...]:
    """Token ids that end an answer, the one that the chat template writes first.

    That one need be neither the tokenizer's end of sequence nor in the generation configuration:
    Gemma's turns end with `<end_of_turn>`.

    Raises:
        ModelError: the model has no end-of-sequence token.
    """
    try:
        known = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        known = None
    turns = (Message(role="user", content="?"), Message(role="assistant", content=_PROBE))
    written = _control(tokenizer).search(_rendered(tokenizer, turns).rpartition(_PROBE)[2])
    first = tokenizer.convert_tokens_to_ids(written[0]) if written else None
    others = known if isinstance(known, list) else [known]
    ends = dict.fromkeys([first, tokenizer.eos_token_id, *others])
    ends.pop(None, None)
    if not ends:
        raise ModelError(f"model {path} has no end-of-sequence token; name one in its tokenizer")
    return tuple(ends)


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...]) -> str:
    """Text of generated token ids, without special tokens and otherwise exact."""
    text: Any = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)


@lru_cache(8)
def _control(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds texts of special tokens. (`all_special_tokens` are only those that have a role.)"""
    added: Any = tokenizer
    texts = [str(token) for token in added.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


@lru_cache(8)
def _writes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes a system message; some refuse it, some leave it out."""
    asked = (Message(role="system", content=_PROBE), Message(role="user", content="?"))
    try:
        return _PROBE in _rendered(tokenizer, asked)
    except ModelError:
        return False


def _read(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of what the chat template wrote."""
    ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tuple(ids)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Iterable[Message], **options: Any
) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text: Any = tokenizer.apply_chat_template(
            turns, tokenize=False, strftime_now=_TODAY.strftime, **options
        )
    except (TemplateError, TypeError) as error:
        raise ModelError(
            f"model {tokenizer.name_or_path}: its chat template refuses the prompt: {error}; "
            "change method.prompts, or use another model"
        ) from error
    return str(text)
