"""Attention over a prefix tree, at the cost of what its nodes see: no mask of s x s.

On CPUs torch's flash kernel computes the blocks of the tree, which are put together by their
log-sum-exps (as flash attention does with its tiles, arXiv 2205.14135). On GPUs FlexAttention
skips the tiles in which no node sees another. Shape suffixes: s nodes, b batch (1), h heads,
d size of a head, c tiles of `TILE` nodes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sphere_ray.compat.torch import flash_backward, flash_forward

TREE_ATTENTION: Final = "tree"
"""Its name in transformers; without a tree it is `sdpa`."""

TILE = 128
"""Nodes a side of a tile of FlexAttention, its default."""

Block: TypeAlias = tuple[int, int, int, int, bool]
"""First query and the one behind the last, the same of the keys, and whether it is causal."""


def as_mask(blocks: Sequence[Block]) -> Tensor:
    """Blocks as what transformers takes for a mask that is made already: [1, 1, blocks, 5]."""
    return torch.tensor(blocks, dtype=torch.int64).reshape(1, 1, -1, 5)


def block_mask(ends: NDArray[np.int64], device: torch.device) -> BlockMask:
    """FlexAttention's form of the tree in which node q sees k if k <= q < ends[k].

    It is made from the largest and the smallest end of each tile; an s x s mask never exists.
    """
    ends_s, nodes = torch.from_numpy(ends), len(ends)
    tiles = -(-nodes // TILE)
    starts_c = torch.arange(tiles) * TILE
    stops_c = (starts_c + TILE).clamp(max=nodes)
    padded = torch.cat([ends_s, ends_s[-1:].expand(tiles * TILE - nodes)]).view(tiles, TILE)
    earlier_cc = torch.ones(tiles, tiles, dtype=torch.bool).tril(-1)
    seen_cc = earlier_cc & (padded.amax(1) > starts_c[:, None]) | torch.eye(tiles, dtype=torch.bool)
    whole_cc = earlier_cc & (padded.amin(1) >= stops_c[:, None])
    ends_s = ends_s.to(device)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_s[key])

    return BlockMask.from_kv_blocks(
        *_listed(seen_cc & ~whole_cc, device),
        *_listed(whole_cc, device),
        BLOCK_SIZE=TILE,
        mask_mod=sees,
        seq_lengths=(nodes, nodes),
    )


def _listed(tiles_cc: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each row of tiles: how many are true, and their numbers before the others'."""
    order = tiles_cc.to(torch.int32).argsort(dim=1, descending=True, stable=True)
    counts = tiles_cc.sum(dim=1)
    return counts[None, None].int().to(device), order[None, None].int().to(device)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of a layer, in the form that transformers registers.

    Queries [b, h, s, d], keys and values with h or fewer heads. Returns [b, s, h, d]. The mask is
    `as_mask` of blocks or a `block_mask`; with any other one, or none, this is transformers' sdpa.
    """
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    blocks = attention_mask[0, 0].tolist()
    output = _block_attention(query, key, value, blocks, options.get("scaling"))
    return output.transpose(1, 2), None


class _BlockAttention(torch.autograd.Function):
    """Attention by blocks (`PrefixTree.blocks`); first those in which each query sees itself."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[Any], scale: float | None
    ) -> Tensor:
        output = torch.empty(query.shape, dtype=torch.float32)
        lse = torch.empty(query.shape[:3], dtype=torch.float32)
        for first, stop, *keys, causal in blocks:
            at, seen = slice(first, stop), slice(*keys)
            part, part_lse = flash_forward(
                query[:, :, at],
                key[:, :, seen],
                value[:, :, seen],
                causal=bool(causal),
                scale=scale,
            )
            if causal:
                output[:, :, at], lse[:, :, at] = part, part_lse
                continue
            total = torch.logaddexp(lse[:, :, at], part_lse)
            output[:, :, at] *= (lse[:, :, at] - total).exp_().unsqueeze(-1)
            output[:, :, at] += part * (part_lse - total).exp_().unsqueeze(-1)
            lse[:, :, at] = total
        rounded = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, rounded, lse)
        ctx.blocks, ctx.scale = blocks, scale
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        grad = grads[0].contiguous()
        sums = [torch.zeros(each.shape, dtype=torch.float32) for each in (query, key, value)]
        for first, stop, *keys, causal in ctx.blocks:
            at, seen = slice(first, stop), slice(*keys)
            # With the whole output and log-sum-exp, a block's gradient is its part of the whole.
            parts = flash_backward(
                grad[:, :, at],
                (query[:, :, at], key[:, :, seen], value[:, :, seen]),
                (output[:, :, at], lse[:, :, at]),
                causal=bool(causal),
                scale=ctx.scale,
            )
            for total, part, where in zip(sums, parts, (at, seen, seen), strict=True):
                total[:, :, where] += part
        return *(total.to(query.dtype) for total in sums), None, None


_block_attention: Callable[..., Tensor] = _BlockAttention.apply

AttentionInterface.register(TREE_ATTENTION, tree_attention)
# A forward without a tree gets sdpa's masks: of padding, of packed rows, of sliding windows.
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
