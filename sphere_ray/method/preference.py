"""Sequence log-probabilities and preference losses: tensors in, tensors out.

Shape suffixes: n rows (completions), b pairs, t completion positions, c positions of one chunk,
v vocabulary.
It must not know of models, batches or devices.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sphere_ray.config.training import LossSettings

CHUNK_POSITIONS = 128


class _TokenLogps(torch.autograd.Function):
    """log softmax at one id per position, without a full-vocabulary float32 copy in either pass."""

    @staticmethod
    def forward(ctx: Any, logits_ntv: Tensor, ids_nt: Tensor, chunk: int) -> Tensor:
        logps, normalisers = [], []
        for start in range(0, logits_ntv.shape[1], chunk):
            logits_ncv = logits_ntv[:, start : start + chunk]
            ids_nc = ids_nt[:, start : start + chunk]
            normaliser_nc = torch.logsumexp(_widen(logits_ncv), dim=-1)
            taken_nc = logits_ncv.gather(-1, ids_nc.unsqueeze(-1)).squeeze(-1)
            logps.append(taken_nc.to(normaliser_nc.dtype) - normaliser_nc)
            normalisers.append(normaliser_nc)
        ctx.save_for_backward(logits_ntv, ids_nt, torch.cat(normalisers, dim=1))
        ctx.chunk = chunk
        return torch.cat(logps, dim=1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad_nt,) = grad_outputs
        logits_ntv, ids_nt, normaliser_nt = ctx.saved_tensors
        grad_ntv = torch.empty_like(logits_ntv)
        for start in range(0, logits_ntv.shape[1], ctx.chunk):
            at = slice(start, start + ctx.chunk)
            scale_nc1 = grad_nt[:, at].unsqueeze(-1)
            grad_ncv = torch.exp(_widen(logits_ntv[:, at]) - normaliser_nt[:, at].unsqueeze(-1))
            grad_ncv.mul_(-scale_nc1)
            grad_ncv.scatter_add_(-1, ids_nt[:, at].unsqueeze(-1), scale_nc1)
            grad_ntv[:, at] = grad_ncv
        return grad_ntv, None, None


def _widen(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def token_logps(logits_ntv: Tensor, ids_nt: Tensor, chunk: int = CHUNK_POSITIONS) -> Tensor:
    """Log-probability in nats of each id under the logits of the same position.

    `logits_ntv[n, t]` are the logits that predict `ids_nt[n, t]` (already shifted). The result is
    float32 (float64 for float64 logits) whatever the logits are; at most `chunk` positions of the
    vocabulary are held in float32, in the backward pass too.
    """
    logps_nt: Tensor = _TokenLogps.apply(logits_ntv, ids_nt, chunk)  # type: ignore[no-untyped-call]
    return logps_nt


def sequence_logps(logps_nt: Tensor, mask_nt: Tensor) -> Tensor:
    """Sum of the log-probabilities [N] where the mask is true; what is masked has no influence."""
    return logps_nt.masked_fill(~mask_nt, 0.0).sum(dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """What a preference loss sees: summed log-probs in nats and lengths in tokens, each [B].

    `reference_*` are of the frozen reference model; lengths count completion tokens, at least 1.
    """

    chosen_b: Tensor
    rejected_b: Tensor
    reference_chosen_b: Tensor
    reference_rejected_b: Tensor
    chosen_length_b: Tensor
    rejected_length_b: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutputs:
    """Loss of each pair (not reduced), and the implicit rewards beta x log-ratio, each [B].

    The rewards carry no gradient; a pair is ranked rightly if its margin is positive. They are per
    token where the loss is length-normalised.
    """

    loss_b: Tensor
    chosen_reward_b: Tensor
    rejected_reward_b: Tensor


def preference_loss(inputs: LossInputs, settings: LossSettings) -> LossOutputs:
    """The configured preference loss of each pair.

    With log-ratios w (chosen) and l (rejected), per token for `sigmoid_norm` and `ipo`, and
    m = w - l - lambda max(0, -w), where lambda = `positive_weight` (arXiv 2402.13228):

    - sigmoid, sigmoid_norm: -log s(beta m) (arXiv 2305.18290, eq. 7; arXiv 2411.15124)
    - ipo: (m - 1 / (2 beta))^2 (arXiv 2310.12036, eq. 17), length-averaged as in TRL
    - robust: (-(1 - e) log s(beta m) + e log s(-beta m)) / (1 - 2e) (arXiv 2403.00409)

    plus `nll_weight` times the chosen side's negative log-likelihood per token (arXiv 2404.19733).
    """
    chosen_b = inputs.chosen_b - inputs.reference_chosen_b
    rejected_b = inputs.rejected_b - inputs.reference_rejected_b
    if settings.kind in ("sigmoid_norm", "ipo"):
        chosen_b = chosen_b / inputs.chosen_length_b
        rejected_b = rejected_b / inputs.rejected_length_b
    margin_b = chosen_b - rejected_b
    if settings.positive_weight:
        margin_b = margin_b - settings.positive_weight * torch.relu(-chosen_b)
    loss_b = _margin_loss(margin_b, settings)
    if settings.nll_weight:
        loss_b = loss_b - settings.nll_weight * inputs.chosen_b / inputs.chosen_length_b
    return LossOutputs(
        loss_b=loss_b,
        chosen_reward_b=settings.beta * chosen_b.detach(),
        rejected_reward_b=settings.beta * rejected_b.detach(),
    )


def _margin_loss(margin_b: Tensor, settings: LossSettings) -> Tensor:
    logit_b = settings.beta * margin_b
    if settings.kind == "ipo":
        return (margin_b - 1 / (2 * settings.beta)) ** 2
    if settings.kind == "robust":
        flip = settings.label_smoothing
        kept_b = (1 - flip) * logsigmoid(logit_b)
        flipped_b = flip * logsigmoid(-logit_b)
        return (flipped_b - kept_b) / (1 - 2 * flip)
    return -logsigmoid(logit_b)
