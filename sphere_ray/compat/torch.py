"""Torch's flash attention on CPUs, with the log-sum-exp that its public function keeps to itself.

With it, attention over several ranges of keys can be put together exactly.
"""

from typing import Any

import torch
from torch import Tensor

_FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
_BACKWARD = f"{_FORWARD}_backward"


def has_cpu_flash() -> bool:
    """Whether this torch has both kernels; without them attention needs a mask."""
    return all(hasattr(torch.ops.aten, name) for name in (_FORWARD, _BACKWARD))


def flash_forward(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attention [b, h, q, d] and the log-sum-exp of its scores [b, h, q], float32.

    There may be fewer heads of keys and values. `causal` counts from the first query and key.
    """
    kernel: Any = getattr(torch.ops.aten, _FORWARD)
    output, lse = kernel(query, key, value, 0.0, causal, scale=scale)
    return output, lse


def flash_backward(
    grad: Tensor, inputs: tuple[Tensor, Tensor, Tensor], done: tuple[Tensor, Tensor], **how: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from `done`: the whole output and log-sum-exp.

    The keys may be a part of those that the output is made of.
    """
    kernel: Any = getattr(torch.ops.aten, _BACKWARD)
    query, key, value = kernel(grad, *inputs, *done, 0.0, how["causal"], scale=how["scale"])
    return query, key, value
