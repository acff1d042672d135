"""What a reward model reads: question and steps as token ids, with the model's own tokenizer."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from sphere_ray.engines.tokens import prompt_ids
from sphere_ray.errors import ModelError
from sphere_ray.records import Message

NUM_LABELS = 2
"""Classes of every reward model: wrong, right."""
QUESTION_CACHE = 1 << 12
STEP_CACHE = 1 << 16


class RewardPrompt:
    """Builds a reward model's input step by step: system and user turn, then the assistant's steps.

    Steps are tokenised separately, so a longer chain's ids begin with a shorter one's. (Whole-text
    tokenisation gives the same ids where there is a tag, an added token at which text is split.)
    Without a tag a step's last token stands for it, and steps are separated by `SEPARATOR`.
    """

    SEPARATOR = "\n"

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, system: str, step_tag: str | None
    ) -> None:
        """Look up the tag.

        Raises:
            ModelError: the tokenizer does not know it as one token.
        """
        known = tokenizer.get_vocab()
        if step_tag is not None and step_tag not in known:
            raise ModelError(
                f"reward model {tokenizer.name_or_path}: its tokenizer has no step tag "
                f"{step_tag!r}; set step_tag to the tag it was trained with"
            )
        self._tokenizer = tokenizer
        self._system = system
        self.tag_id = None if step_tag is None else int(known[step_tag])
        self._control_ids = frozenset({self.tag_id, *tokenizer.all_special_ids})
        self._end = self._separator() if self.tag_id is None else (self.tag_id,)
        self._step_ids = lru_cache(STEP_CACHE)(self._encode_step)
        self._question_ids = lru_cache(QUESTION_CACHE)(self._encode_question)

    def ids(self, question: str, steps: Iterable[str]) -> list[int]:
        """Token ids of the question and `steps`; each step's reward belongs to its last id."""
        ids = list(self._question_ids(question))
        for step in steps:
            ids.extend(self._step_ids(step))
        return ids

    def _encode_question(self, question: str) -> tuple[int, ...]:
        system = (Message(role="system", content=self._system),) if self._system else ()
        ids = prompt_ids(self._tokenizer, (*system, Message(role="user", content=question)))
        # A question that contains the tag must not add a score either.
        return tuple(token for token in ids if token != self.tag_id)

    def _encode_step(self, step: str) -> tuple[int, ...]:
        ids: Any = self._tokenizer.encode(step.strip(), add_special_tokens=False)
        # A policy that writes a tag, or the end of its turn, must not forge a step.
        return (*(token for token in ids if token not in self._control_ids), *self._end)

    def _separator(self) -> tuple[int, ...]:
        ids: Any = self._tokenizer.encode(self.SEPARATOR, add_special_tokens=False)
        return tuple(ids)
