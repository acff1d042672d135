"""Preference pairs as token ids: what the reference phase and the trainer both see."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from sphere_ray.errors import ModelError
from sphere_ray.records import PreferencePair


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPair:
    """Token ids of one pair; the two completions follow the same prompt."""

    pair_id: str
    prompt_ids: Sequence[int]
    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]

    @property
    def tokens(self) -> int:
        """Tokens of both rows; the prompt counts twice, though it is computed once."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)


class PairEncoder:
    """Turns pairs into token ids with one model's tokenizer and chat template."""

    def __init__(self, model_dir: str) -> None:
        """Load the tokenizer.

        Raises:
            ModelError: it is missing, or has no chat template or end-of-sequence token.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(model_dir)
        except (OSError, ValueError) as error:
            raise ModelError(f"{model_dir} has no tokenizer that can be loaded: {error}") from error
        if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {model_dir} needs a chat template and an end-of-sequence token; "
                "use an instruction-tuned model"
            )
        self._tokenizer: PreTrainedTokenizerBase = tokenizer
        self._end: int = tokenizer.eos_token_id
        self._ends = _end_ids(model_dir) | {self._end}

    def encode(self, pair: PreferencePair) -> EncodedPair:
        """Encode one pair.

        Engine ids are taken as they are: encoding the text again gives other ids, and only they
        tell a whole chain, which ends with end-of-sequence, from a first step, which must not.
        A side without ids is text, a whole chain unless it has a prefix.
        """
        prefix = pair.prefix_ids or self._ids(pair.prefix)
        return EncodedPair(
            pair_id=pair.pair_id,
            prompt_ids=(*self._prompt(pair), *prefix),
            chosen_ids=pair.chosen_ids or self._text(pair.chosen, whole=not prefix),
            rejected_ids=pair.rejected_ids or self._text(pair.rejected, whole=not prefix),
        )

    def _prompt(self, pair: PreferencePair) -> tuple[int, ...]:
        turns = [{"role": turn.role, "content": turn.content} for turn in pair.prompt]
        text = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return self._ids(str(text))

    def _text(self, text: str, *, whole: bool) -> tuple[int, ...]:
        ids = self._ids(text)
        if whole and ids and ids[-1] not in self._ends:
            return (*ids, self._end)
        return ids

    def _ids(self, text: str) -> tuple[int, ...]:
        # The chat template writes the special tokens itself.
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


def encode_pairs(
    pairs: Iterable[PreferencePair], encoder: PairEncoder, max_length: int
) -> tuple[list[EncodedPair], Counter[str]]:
    """Encode pairs; what cannot be trained on is dropped and counted by reason, never cut."""
    kept: list[EncodedPair] = []
    dropped: Counter[str] = Counter()
    for pair in pairs:
        encoded = encoder.encode(pair)
        reason = _unfit(encoded, max_length)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(encoded)
    return kept, dropped


def _unfit(pair: EncodedPair, max_length: int) -> str | None:
    longer = max(len(pair.chosen_ids), len(pair.rejected_ids))
    if not pair.chosen_ids or not pair.rejected_ids:
        return "empty"
    if pair.chosen_ids == pair.rejected_ids:
        return "identical"
    return "too_long" if len(pair.prompt_ids) + longer > max_length else None


def _end_ids(model_dir: str) -> set[int]:
    try:
        ends = GenerationConfig.from_pretrained(model_dir).eos_token_id
    except OSError:
        return set()
    if ends is None:
        return set()
    return set(ends) if isinstance(ends, list) else {ends}
