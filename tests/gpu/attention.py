"""Attention over a prefix tree (FlexAttention on GPUs, blocks on CPUs) against a mask of s x s."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sphere_ray.config.training import Attention
from sphere_ray.trees.attention import tree_attention
from sphere_ray.trees.tree import PrefixTree
from tests.gpu.device import DEVICE, TINY, finish, median_s, peak_mib, reset_peak, significant

HEADS, KEY_HEADS, SIZE, PROMPT = 28, 4, 128, 64
SIDES = (64, 160) if TINY else (1024, 2048, 4096, 8192)
TOLERANCES = {torch.float32: 5e-3, torch.bfloat16: 5e-2}
"""Of the largest entry; GPUs may multiply fp32 in TF32."""


def tree_of(side: int) -> PrefixTree:
    """A pair with so many tokens a side, the sides half alike."""
    prompt, middle = range(PROMPT), range(1000, 1000 + side // 2)
    ends = (range(start, start + side // 2) for start in (20_000, 40_000))
    return PrefixTree.of([*prompt, *middle, *end] for end in ends)


def inputs(nodes: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(nodes)
    return [
        torch.randn(1, heads, nodes, SIZE, generator=generator).to(DEVICE, dtype).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def run(tree: PrefixTree, qkv: list[Tensor], attention: Attention) -> list[Tensor]:
    """Output and gradients."""
    mask: Any = tree.inputs(DEVICE, attention)["attention_mask"]
    scale = SIZE**-0.5
    if attention == "sdpa":  # as transformers calls it
        query, *keys = qkv
        keys = [each.repeat_interleave(HEADS // KEY_HEADS, dim=1) for each in keys]
        output = scaled_dot_product_attention(query, *keys, attn_mask=mask, scale=scale)
        output = output.transpose(1, 2)
    else:
        output = tree_attention(nn.Module(), *qkv, mask, scaling=scale, dropout=0.0)[0]
    return [output, *torch.autograd.grad(output.float().square().sum(), qkv)]


def main() -> None:
    figures: dict[str, Any] = {}
    faults = []
    for dtype in (torch.float32, torch.bfloat16):
        tree = tree_of(SIDES[0])
        exact = run(tree, inputs(len(tree.ids_s), torch.float32), "sdpa")
        found = run(tree, inputs(len(tree.ids_s), dtype), "tree")
        apart = max(
            ((one.float() - other).abs().max() / other.abs().max()).item()
            for one, other in zip(found, exact, strict=True)
        )
        name = str(dtype).removeprefix("torch.")
        figures[f"{name}, apart"] = significant(apart)
        if not apart <= TOLERANCES[dtype]:
            faults.append(f"attention in {name} is {apart:.2g} from that by a mask")
    for side in SIDES:
        tree = tree_of(side)
        qkv, seconds = inputs(len(tree.ids_s), torch.bfloat16), {}
        for attention in ("tree", "sdpa"):
            reset_peak()
            try:
                seconds[attention] = median_s(partial(run, tree, qkv, attention), times=3)
            except torch.OutOfMemoryError:
                figures[f"{side} a side, {attention}"] = "out of memory"
                continue
            figures[f"{side} a side, {attention}, ms"] = significant(1000 * seconds[attention])
            figures[f"{side} a side, {attention}, MiB"] = peak_mib()
        if len(seconds) == 2:
            ratio = seconds["sdpa"] / seconds["tree"]
            figures[f"{side} a side, speed over a mask"] = significant(ratio)
    finish(figures, faults)


if __name__ == "__main__":
    main()
