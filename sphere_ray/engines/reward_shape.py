"""Which models the step-tag format can hold, by their configuration alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sphere_ray.errors import ModelError

ARCHITECTURE = "Qwen2ForProcessRewardModel"


def require_step_tags(base: Path) -> None:
    """Check that a model can become, or is, a reward model of the step-tag format.

    Raises:
        ModelError: its architecture is neither Qwen2 nor one that Qwen2's layers contain.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if not _fits_in_qwen2(config):
        raise ModelError(
            f"own.base {base} is of the architecture {config.get('model_type')}, which the "
            "step-tag format (Qwen2) cannot hold; set own.shape: classifier, or name a Qwen2 or "
            "Llama base"
        )


def _fits_in_qwen2(config: Mapping[str, Any]) -> bool:
    """Whether Qwen2's layers can compute what the model's do: Llama's lack their three biases."""
    names = ("head_dim", "num_attention_heads", "hidden_size")
    head_dim, heads, width = (config.get(name) for name in names)
    if head_dim and heads and width and head_dim * heads != width:
        return False
    if config.get("model_type") == "llama":
        return not (config.get("attention_bias") or config.get("mlp_bias"))
    return config.get("model_type") == "qwen2"
