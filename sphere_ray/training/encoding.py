"""Preference pairs as token ids, which the reference step and the trainer both read."""

from collections import Counter
from collections.abc import Iterable

from sphere_ray.engines.tokens import end_ids, load_tokenizer, prompt_ids, text_ids
from sphere_ray.records import PreferencePair
from sphere_ray.trees.pairs import EncodedPair


class PairEncoder:
    """Turns pairs into token ids with one model's tokenizer and chat template."""

    def __init__(self, model_dir: str) -> None:
        """Load the tokenizer.

        Raises:
            ModelError: it is missing, or has no chat template or end-of-sequence token.
        """
        self._tokenizer = load_tokenizer(model_dir)
        self._ends = end_ids(self._tokenizer, model_dir)

    def encode(self, pair: PreferencePair) -> EncodedPair:
        """Encode one pair.

        The engine's ids are taken as they are. To encode the text again would give other ids, and
        only the engine's tell a whole chain, which ends with an end-of-sequence token, from a
        first step, which must not. A side without ids is text: a whole chain, unless the pair has
        a prefix.
        """
        prefix = pair.prefix_ids or text_ids(self._tokenizer, pair.prefix)
        return EncodedPair(
            pair_id=pair.pair_id,
            prompt_ids=(*prompt_ids(self._tokenizer, pair.prompt), *prefix),
            chosen_ids=pair.chosen_ids or self._text(pair.chosen, whole=not prefix),
            rejected_ids=pair.rejected_ids or self._text(pair.rejected, whole=not prefix),
        )

    def _text(self, text: str, *, whole: bool) -> tuple[int, ...]:
        ids = text_ids(self._tokenizer, text)
        return (*ids, self._ends[0]) if whole and ids and ids[-1] not in self._ends else ids


def encode_pairs(
    pairs: Iterable[PreferencePair], encoder: PairEncoder, max_length: int
) -> tuple[list[EncodedPair], Counter[str]]:
    """Encode pairs; one that cannot be trained on is dropped and counted by reason, never cut."""
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
