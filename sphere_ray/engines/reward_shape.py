"""Which models can become a reward model of a shape, by their configuration alone."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sphere_ray.errors import ModelError

ARCHITECTURE = "Qwen2ForProcessRewardModel"


def require_step_tags(base: Path) -> None:
    """Check that a model can become, or is, a reward model of the step-tag format.

    Raises:
        ModelError: its architecture is neither Qwen2 nor one that Qwen2's layers contain.
    """
    config = _read(base)
    if not _fits_in_qwen2(config):
        raise ModelError(
            f"trained.base {base} is of the architecture {config.get('model_type')}, which the "
            "step-tag format (Qwen2) cannot hold; set trained.shape: classifier, or name a Qwen2 "
            "or Llama base"
        )


def require_layers(base: Path, layers: int, shape: str) -> None:
    """Check that a reward model of a shape can be made of the first `layers` layers of a model.

    Raises:
        ModelError: it has fewer, or is one of this shape, whose head reads its last layer.
    """
    config = _read(base)
    has = config.get("num_hidden_layers")
    if has is None:
        raise ModelError(
            f"trained.layers ({layers}) cannot be used with trained.base {base}: its config.json "
            "has no num_hidden_layers; set trained.layers: null"
        )
    if layers > has:
        raise ModelError(
            f"trained.layers ({layers}) is more than the {has} layers of trained.base {base}; "
            "lower it"
        )
    if layers < has and keeps_head(config.get("architectures") or (), shape):
        raise ModelError(
            f"trained.base {base} is a reward model already, whose head reads the last of its "
            f"{has} layers, so that trained.layers ({layers}) cannot cut it; set trained.layers: "
            "null"
        )


def keeps_head(architectures: Iterable[str], shape: str) -> bool:
    """Whether a model of these architectures is a reward model of the shape already."""
    if shape == "step_tags":
        return ARCHITECTURE in architectures
    return any("SequenceClassification" in name for name in architectures)


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
