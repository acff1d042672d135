"""A language model that scores completions, and the check that sharing prefixes changes nothing.

Nothing here knows how the model is sharded: a sharded model is called like the model itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sphere_ray.config.training import Attention
from sphere_ray.errors import ModelError
from sphere_ray.method.preference import token_logps
from sphere_ray.trees.head import make_scoring
from sphere_ray.trees.pairs import EncodedPair, Tensors, collate

SHARING_TOLERANCE = 0.1
"""Nats per token, on average; bfloat16 rounds to about 0.01."""
PREFIX = "model."
"""Where the names of a `TokenScorer`'s parameters begin; behind it they are the model's."""


class TokenScorer(nn.Module):
    """A causal language model, with adapters or without, as a function that scores tokens."""

    def __init__(self, model: Any) -> None:
        """Wrap a transformers model, or peft's wrapper of one."""
        super().__init__()
        self.model = model
        self._chunked = make_scoring(self._language_model)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def _language_model(self) -> Any:
        whole: Any = self.model
        return whole.get_base_model() if hasattr(whole, "get_base_model") else whole

    def forward(
        self, *, positions_m: Tensor, ids_m: Tensor, plain: bool = False, **inputs: Any
    ) -> Tensor:
        """Log-probs in nats [m], float32, of ids under what positions of the only row predict.

        With `plain` they come from the model's own logits, all of them at once.
        """
        if plain or not self._chunked:
            output = self.model(**inputs, logits_to_keep=positions_m, use_cache=False)
            return token_logps(output.logits, ids_m[None])[0]
        model = self._language_model
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
        logps_m: Tensor = model.get_output_embeddings()(hidden[0, positions_m], ids_m)
        return logps_m


def completion_logps(scorer: Callable[..., Tensor], tensors: Tensors) -> Tensor:
    """Log-prob in nats of every completion token [n, t], float32; meaningless where masked."""
    logps_m = scorer(positions_m=tensors.parents_m, ids_m=tensors.scored_ids_m, **tensors.inputs)
    return logps_m[tensors.nodes_nt]


@torch.no_grad()
def check_prefix_sharing(
    scorer: Callable[..., Tensor], pair: EncodedPair, *, device: torch.device, attention: Attention
) -> None:
    """Compare a pair's log-probs in one forward with those in a plain forward for each side.

    Raises:
        ModelError: they differ by more than rounding; the model's layers do not all follow the
            attention mask (recurrent ones, or a sliding window shorter than the pair).
    """
    shared_nt = completion_logps(scorer, collate([pair], device, attention))
    differences = []
    for row, completion in enumerate((pair.chosen_ids, pair.rejected_ids)):
        ids_s = torch.tensor([*pair.prompt_ids, *completion], device=device)
        first = len(pair.prompt_ids)
        before_m = torch.arange(first - 1, len(ids_s) - 1, device=device)
        alone_m = scorer(
            positions_m=before_m, ids_m=ids_s[first:], input_ids=ids_s[None], plain=True
        )
        differences.append((shared_nt[row, : len(completion)] - alone_m).abs().mean().item())
    require_parity(differences, SHARING_TOLERANCE, "log-probs per token", "training")


def require_parity(
    differences: Sequence[float], tolerance: float, what: str, settings: str
) -> None:
    """Check that a forward over shared prefixes gives what plain forwards give.

    It comes after all of them: under ZeRO-3 every worker has to make the same number of forwards.

    Raises:
        ModelError: a difference is above the tolerance.
    """
    if max(differences) > tolerance:
        raise ModelError(
            f"this model cannot be trained with shared prefixes: its {what} come out "
            f"{max(differences):.2g} apart; its layers must follow the attention mask and the "
            "positions they are given: recurrent ones do not, nor do those with a sliding window "
            f"shorter than {settings}.max_length, unless attention is flash_attention_2"
        )
