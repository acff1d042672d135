"""Log-probs in chunks against log softmax over all logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sphere_ray.trees.head import head_logps

HIDDEN, WORDS = 7, 23


def parts(positions: int, dtype: torch.dtype, *, bias: bool, frozen: bool) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(positions)
    hidden, weight, added = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((positions, HIDDEN), (WORDS, HIDDEN), (WORDS,))
    )
    hidden.requires_grad_()
    if not frozen:
        weight.requires_grad_()
        added.requires_grad_()
    return [hidden, weight, added if bias else None]


def all_at_once(hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
    logits = nn.functional.linear(hidden, weight, bias).float()
    return logits.log_softmax(-1)[range(len(ids)), ids]


@given(st.integers(1, 40), st.integers(1, 600), st.booleans(), st.booleans())
def test_chunks_give_what_all_logits_give(
    positions: int, chunk_logits: int, bias: bool, frozen: bool
) -> None:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(WORDS, (positions,), generator=generator)
    grad = torch.randn(positions, generator=generator)
    results = []
    for function, extra in ((head_logps, (chunk_logits,)), (all_at_once, ())):
        inputs = parts(positions, torch.float32, bias=bias, frozen=frozen)
        logps = function(*inputs, ids, *extra)
        assert logps.dtype == torch.float32
        logps.backward(grad)
        results.append([logps, *(each.grad for each in inputs if each is not None)])
    for one, other in zip(*results, strict=True):
        if other is None:
            assert one is None
        else:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk_logits", [WORDS, 10 * WORDS, 10**6])
def test_bfloat16_is_as_near_as_all_logits_are(chunk_logits: int) -> None:
    ids = torch.arange(64) % WORDS
    exact = parts(64, torch.bfloat16, bias=False, frozen=False)
    wide = [each.detach().float().requires_grad_() for each in exact if each is not None]
    all_at_once(wide[0], wide[1], None, ids).sum().backward()
    logps = head_logps(*exact, ids, chunk_logits)
    logps.sum().backward()
    for each, other in zip(exact, wide, strict=False):
        assert each.grad.dtype == torch.bfloat16
        close = nn.functional.cosine_similarity(
            each.grad.float().flatten(), other.grad.flatten(), 0
        )
        assert close > 0.999
