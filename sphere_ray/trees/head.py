"""Log-probs of chosen tokens from hidden states, without the logits of all positions at once.

At 16k tokens a side and 152k words, the logits of a pair alone would take 20 GB in float32.
Shape suffixes: m scored positions, c those of a chunk, h hidden size, v vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sphere_ray.method.preference import token_logps

CHUNK_LOGITS = 1 << 26
"""Logits in memory at a time: 256 MB in float32, and as much for their gradient."""

_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Names in a configuration that say that logits are more than what the head gives."""


class ScoringHead(nn.Module):
    """The output layer of a language model, which also gives log-probs.

    It takes over the layer's parameters, so names, ties and ZeRO-3's shards stay as they are.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        """Take over a layer's parameters."""
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, hidden: Tensor, ids_m: Tensor | None = None) -> Tensor:
        """Logits; with `ids_m`, the log-probs of these [m] after hidden states [m, h]."""
        if ids_m is None:
            return linear(hidden, self.weight, self.bias)
        return head_logps(hidden, self.weight, self.bias, ids_m)


def make_scoring(model: Any) -> bool:
    """Give a transformers model a `ScoringHead`, unless its logits are no plain linear layer's.

    Returns whether it has one now. An output layer with adapters is no plain one.
    """
    layer = model.get_output_embeddings()
    if type(layer) is nn.Linear and not any(
        getattr(model.config, name, None) for name in _AFTER_THE_HEAD
    ):
        model.set_output_embeddings(ScoringHead(layer))
        return True
    return isinstance(layer, ScoringHead)


def head_logps(
    hidden_mh: Tensor,
    weight_vh: Tensor,
    bias_v: Tensor | None,
    ids_m: Tensor,
    chunk_logits: int = CHUNK_LOGITS,
) -> Tensor:
    """Log-probability in nats of each id, [m] in float32 (see `preference.token_logps`).

    Where there are more than `chunk_logits` logits, they are computed in chunks of positions, and
    again in the backward pass.
    """
    chunk = max(1, chunk_logits // len(weight_vh))
    if len(ids_m) <= chunk:
        return token_logps(linear(hidden_mh, weight_vh, bias_v)[None], ids_m[None])[0]
    return _chunked_logps(hidden_mh, weight_vh, bias_v, ids_m, chunk)


class _HeadLogps(torch.autograd.Function):
    """log softmax of a linear layer at one id per position."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_mh: Tensor,
        weight_vh: Tensor,
        bias_v: Tensor | None,
        ids_m: Tensor,
        chunk: int,
    ) -> Tensor:
        logps, normalisers = [], []
        for start in range(0, len(ids_m), chunk):
            at = slice(start, start + chunk)
            logits_cv = linear(hidden_mh[at], weight_vh, bias_v).float()
            normaliser_c = logits_cv.logsumexp(dim=-1)
            logps.append(logits_cv.gather(-1, ids_m[at, None])[:, 0] - normaliser_c)
            normalisers.append(normaliser_c)
        ctx.save_for_backward(hidden_mh, weight_vh, bias_v, ids_m, torch.cat(normalisers))
        ctx.chunk = chunk
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_mh, weight_vh, bias_v, ids_m, normaliser_m = ctx.saved_tensors
        _, of_weight, of_bias, *_ = ctx.needs_input_grad
        # Sums of many bfloat16 chunks would lose the small ones.
        grad_vh = torch.zeros_like(weight_vh, dtype=torch.float32) if of_weight else None
        grad_v = torch.zeros_like(bias_v, dtype=torch.float32) if of_bias else None
        grad_mh = torch.empty_like(hidden_mh)
        for start in range(0, len(ids_m), ctx.chunk):
            at = slice(start, start + ctx.chunk)
            hidden_ch, scale_c1 = hidden_mh[at], grads[0][at, None]
            logits_cv = linear(hidden_ch, weight_vh, bias_v).float()
            grad_cv = logits_cv.sub_(normaliser_m[at, None]).exp_().mul_(-scale_c1)
            grad_cv.scatter_add_(-1, ids_m[at, None], scale_c1)
            if grad_v is not None:
                grad_v += grad_cv.sum(dim=0)
            grad_cv = grad_cv.to(hidden_mh.dtype)
            grad_mh[at] = grad_cv @ weight_vh
            if grad_vh is None:
                continue
            if grad_vh.dtype == grad_cv.dtype:
                grad_vh.addmm_(grad_cv.T, hidden_ch)
            else:
                grad_vh += grad_cv.T @ hidden_ch
        of_layer = (None if g is None else g.to(weight_vh.dtype) for g in (grad_vh, grad_v))
        return grad_mh, *of_layer, None, None


_chunked_logps: Callable[..., Tensor] = _HeadLogps.apply
