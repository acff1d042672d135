"""Tokens/s, MFU and peak memory of training steps at the shapes of real models, random weights."""

import sys
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from sphere_ray.config.training import TrainingSettings
from sphere_ray.training.policy import make_ready
from sphere_ray.trees.pairs import EncodedPair, collate
from sphere_ray.trees.scoring import TokenScorer, completion_logps
from tests.gpu.device import (
    DEVICE,
    ON_GPU,
    TINY,
    finish,
    median_s,
    peak_mib,
    reset_peak,
    significant,
)

SHAPES: dict[str, dict[str, Any]] = {  # config.json on the hub
    "speed-1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "speed-7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
SIDES = (96,) if TINY else (512, 2048, 8192)
PROMPT, GIB = 32, 1 << 30
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bf16 FLOP/s that the makers give."""


def model_of(name: str) -> tuple[Any, int]:
    """A model with as many of its layers as fit three times into the memory, and how many."""
    shape = SHAPES[name] | {"max_position_embeddings": 1 << 15} | (SMALL if TINY else {})
    layers = shape["num_hidden_layers"]
    if ON_GPU and not TINY:
        hidden, free = shape["hidden_size"], torch.cuda.mem_get_info()[0]
        a_layer = 4 * hidden * (3 * shape["intermediate_size"] + 3 * hidden)  # weight, gradient
        ends = 8 * hidden * shape["vocab_size"]
        layers = max(2, min(layers, int((0.6 * free - ends) / a_layer)))
    config = Qwen2Config(**shape | {"num_hidden_layers": layers})
    with DEVICE:
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="tree"
        )
    make_ready(model, TrainingSettings(gradient_checkpointing=True, precision="bf16"))
    return model.train(), layers


def gemm_flops() -> float:
    """What a large product of bf16 matrices reaches here."""
    size = 8192 if ON_GPU else 256
    one, other = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / median_s(lambda: one @ other)


def pair_of(side: int, words: int) -> EncodedPair:
    prompt, chosen, rejected = (
        torch.randint(words, (count,)).tolist() for count in (PROMPT, side, side)
    )
    return EncodedPair(pair_id="", prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)


def step(scorer: TokenScorer, pair: EncodedPair) -> None:
    """Forward and backward; what an optimizer adds does not depend on tokens."""
    tensors = collate([pair], DEVICE)
    completion_logps(scorer, tensors).mul(tensors.completion_mask_nt).sum().backward()
    scorer.zero_grad(set_to_none=True)


def main(name: str) -> None:
    torch.manual_seed(0)
    peak = gemm_flops()
    model, layers = model_of(name)
    scorer = TokenScorer(model)
    weights = sum(parameter.numel() for parameter in model.parameters())
    embedding = 0 if model.config.tie_word_embeddings else model.config.vocab_size
    active = weights - embedding * model.config.hidden_size  # looking a row up multiplies nothing
    figures: dict[str, Any] = {
        "layers": layers,
        "weights": significant(weights),
        "gemm TFLOP/s": significant(peak / 1e12),
    }
    device = torch.cuda.get_device_name() if ON_GPU else "CPU"
    given = next((flops for part, flops in PEAK_BF16.items() if part in device), None)
    for side in SIDES:
        pair = pair_of(side, model.config.vocab_size)
        reset_peak()
        seconds = median_s(partial(step, scorer, pair), times=2)
        nodes = PROMPT + 2 * side
        flops = 6 * active * nodes / seconds
        figures[f"{side} a side, tokens/s"] = significant(nodes / seconds)
        if given:
            figures[f"{side} a side, MFU"] = significant(flops / given)
        figures[f"{side} a side, of the gemm"] = significant(flops / peak)
        figures[f"{side} a side, MiB"] = peak_mib()
    finish(figures, [])


if __name__ == "__main__":
    main(sys.argv[1])
