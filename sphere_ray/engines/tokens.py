"""Chat messages to token ids, and ids back to text: the one place that says how."""

from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

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

    Raises:
        ModelError: the chat template refuses the messages (Gemma's takes no system message).
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return _templated(tokenizer, turns, add_generation_prompt=True)


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text by itself, without the special tokens that a chat template writes."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


def end_ids(tokenizer: PreTrainedTokenizerBase, path: str) -> tuple[int, ...]:
    """Token ids that end an answer, the one that the chat template writes first.

    That one need not be the tokenizer's end of sequence: Gemma's turns end with `<end_of_turn>`.

    Raises:
        ModelError: the model has no end-of-sequence token.
    """
    try:
        known = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        known = None
    ends = dict.fromkeys([tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])])
    ends.pop(None, None)
    if not ends:
        raise ModelError(f"model {path} has no end-of-sequence token; name one in its tokenizer")
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    written = [token for token in reversed(_templated(tokenizer, turns)) if token in ends]
    return tuple(dict.fromkeys([*written[:1], *ends]))


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...]) -> str:
    """Text of generated token ids, without special tokens and otherwise exact."""
    text: Any = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)


def _templated(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options: Any
) -> tuple[int, ...]:
    try:
        ids: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, **options)
    except TemplateError as error:
        raise ModelError(
            f"model {tokenizer.name_or_path}: its chat template refuses the prompt: {error}; "
            "change method.prompts, or use another model"
        ) from error
    return tuple(ids)
