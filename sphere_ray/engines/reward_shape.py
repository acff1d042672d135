"""Which models can become a reward model of a shape, by their configuration alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sphere_ray.errors import ModelError

ARCHITECTURE = "Qwen2ForProcessRewardModel"
CLASSIFIER = "SequenceClassification"
"""Part of the name of every architecture with a head of classes."""


def require_step_tags(base: Path) -> None:
    """Check that a model can become, or is, a reward model of the step-tag format.

    Raises:
        ModelError: its architecture is neither Qwen2 nor one that Qwen2's layers contain.
    """
    config = _read(base)
    if not _fits_in_qwen2(config):
        raise ModelError(
            f"own.base {base} is of the architecture {config.get('model_type')}, which the "
            "step-tag format (Qwen2) cannot hold; set own.shape: classifier, or name a Qwen2 or "
            "Llama base"
        )


def require_layers(base: Path, layers: int) -> None:
    """Check that a reward model can be made of the first `layers` layers of a model.

    Raises:
        ModelError: it has fewer, or is a reward model already, whose head reads its last layer.
    """
    config = _read(base)
    has = config.get("num_hidden_layers")
    if has is None or layers > has:
        found = (
            "whose config.json names no num_hidden_layers" if has is None else f"which has {has}"
        )
        raise ModelError(
            f"own.layers is {layers}, but own.base is {base}, {found}; lower own.layers, or leave "
            "it out to keep all"
        )
    heads = " ".join(config.get("architectures") or ())
    if layers < has and (ARCHITECTURE in heads or CLASSIFIER in heads):
        raise ModelError(
            f"own.base {base} is a reward model already, whose head reads the last of its {has} "
            f"layers; leave own.layers ({layers}) out"
        )


def _read(base: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return config


def _fits_in_qwen2(config: Mapping[str, Any]) -> bool:
    """Whether Qwen2's layers can compute what the model's do: Llama's lack their three biases."""
    names = ("head_dim", "num_attention_heads", "hidden_size")
    head_dim, heads, width = (config.get(name) for name in names)
    if head_dim and heads and width and head_dim * heads != width:
        return False
    if config.get("model_type") == "llama":
        return not (config.get("attention_bias") or config.get("mlp_bias"))
    return config.get("model_type") == "qwen2"
