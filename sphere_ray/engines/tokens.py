"""Chat messages to token ids, and ids back to text: the one place that says how."""

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sphere_ray.errors import ModelError
from sphere_ray.records import Message


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Raises:
        ModelError: there is none, or it has no chat template.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {path}: its tokenizer cannot be loaded: {error}") from error
    if tokenizer.chat_template is None:
        raise ModelError(
            f"model {path} has no chat template; use an instruction-tuned model, or add a "
            "chat_template.jinja to its directory"
        )
    return tokenizer  # type: ignore[no-any-return]  # AutoTokenizer has no types


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...]
) -> tuple[int, ...]:
    """Token ids of `messages` up to where the assistant's turn begins."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    ids: Any = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return tuple(ids)


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...]) -> str:
    """Text of generated token ids, without special tokens and otherwise exact."""
    text: Any = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)
