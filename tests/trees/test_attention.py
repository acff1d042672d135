"""Attention over blocks and by FlexAttention against a mask of s x s."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from sphere_ray.compat import torch as torch_kernels
from sphere_ray.trees.attention import block_mask, tree_attention
from sphere_ray.trees.tree import PrefixTree

CPU = torch.device("cpu")
HEADS, KEY_HEADS, SIZE = 6, 2, 16


def random_tree(seed: int, branches: int, length: int) -> PrefixTree:
    """Sequences that leave earlier ones at random places."""
    rng = random.Random(seed)
    sequences = [[rng.randrange(50) for _ in range(length)]]
    for _ in range(branches):
        shared = rng.choice(sequences)
        kept = shared[: rng.randrange(len(shared) + 1)]
        sequences.append(kept + [rng.randrange(50) for _ in range(rng.randint(1, length))])
    return PrefixTree.of(sequences)


def tensors(nodes: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(nodes)
    return [
        torch.randn(1, heads, nodes, SIZE, generator=generator).to(dtype).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def by_mask(tree: PrefixTree, inputs: list[Tensor], scale: float) -> Tensor:
    mask = tree.inputs(CPU, "sdpa")["attention_mask"]
    output = scaled_dot_product_attention(*inputs, attn_mask=mask, scale=scale, enable_gqa=True)
    return output.transpose(1, 2)


def by_blocks(tree: PrefixTree, inputs: list[Tensor], scale: float) -> Tensor:
    mask = tree.inputs(CPU)["attention_mask"]
    return tree_attention(nn.Module(), *inputs, mask, scaling=scale, dropout=0.0)[0]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 8), st.integers(1, 70))
def test_blocks_give_what_a_mask_gives(seed: int, branches: int, length: int) -> None:
    tree = random_tree(seed, branches, length)
    found, expected = [], []
    for attention, results in ((by_blocks, found), (by_mask, expected)):
        inputs = tensors(len(tree.ids_s))
        output = attention(tree, inputs, 0.2)
        generator = torch.Generator().manual_seed(seed)
        output.backward(torch.randn(output.shape, generator=generator))
        results += [output, *(each.grad for each in inputs)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_a_torch_without_the_kernels_gets_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_kernels, "_FORWARD", "gone")
    assert not torch_kernels.has_cpu_flash()
    tree = random_tree(1, 3, 20)
    inputs = [each.detach() for each in tensors(len(tree.ids_s))]
    layer = nn.Module()
    layer.num_key_value_groups = HEADS // KEY_HEADS
    mask = tree.inputs(CPU)["attention_mask"]
    output = tree_attention(layer, *inputs, mask, scaling=0.2, dropout=0.0)[0]
    torch.testing.assert_close(output, by_mask(tree, inputs, 0.2))


def test_blocks_in_bfloat16_are_as_near_as_a_mask() -> None:
    tree = random_tree(3, 6, 200)
    exact = by_mask(tree, tensors(len(tree.ids_s)), 0.25)
    for attention in (by_blocks, by_mask):
        rounded = attention(tree, tensors(len(tree.ids_s), torch.bfloat16), 0.25)
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("length", [5, 90, 300])
def test_a_flex_mask_is_the_tree(length: int) -> None:
    """Not compiled, as on CPUs; what it skips are tiles, so there must be several."""
    tree = random_tree(length, 4, length)
    inputs = [each.detach() for each in tensors(len(tree.ids_s))]
    mask = block_mask(tree.ends(), CPU)
    output = flex_attention(*inputs, block_mask=mask, scale=0.2, enable_gqa=True)
    torch.testing.assert_close(output.transpose(1, 2), by_mask(tree, inputs, 0.2))
    assert torch.equal(mask.to_dense()[0, 0].bool(), seen_tiles(tree))


def seen_tiles(tree: PrefixTree) -> Tensor:
    mask_ss = tree.inputs(CPU, "sdpa")["attention_mask"][0, 0]
    tiles = [rows.split(128, dim=1) for rows in mask_ss.split(128)]
    return torch.tensor([[bool(tile.any()) for tile in row] for row in tiles])
