"""LoRA (arXiv 2106.09685): small trained matrices beside the frozen ones, and their sum at the end.

The adapters are peft's. They start as zero, so the model begins as its own reference.
"""

from collections.abc import Mapping

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from sphere_ray.config.training import LoraSettings
from sphere_ray.errors import ConfigError

_PREFIX, _FROZEN = "base_model.model.", ".base_layer."
_DOWN, _UP = "lora_A.default.weight", "lora_B.default.weight"


def with_adapters(model: PreTrainedModel, lora: LoraSettings, seed: int) -> nn.Module:
    """Freeze the model and give it adapters; the same ones on every worker.

    Raises:
        ConfigError: a target is not a layer of this model.
    """
    targets = lora.target_modules
    torch.manual_seed(seed)
    try:
        return get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=0.0,
                target_modules=targets if isinstance(targets, str) else list(targets),
            ),
        )
    except ValueError as error:
        raise ConfigError(
            f"training.lora.target_modules ({targets}) cannot be used with this model: {error}"
        ) from error


def plain(model: nn.Module) -> PreTrainedModel:
    """The model below its adapters, if it has any."""
    below = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(below, PreTrainedModel)
    return below


def merged(weights: Mapping[str, Tensor], lora: LoraSettings | None) -> Mapping[str, Tensor]:
    """The weights of a model with adapters as those of the plain model: W + alpha / rank * B A.

    The sum is made in float32 and rounded once.
    """
    if lora is None:
        return weights
    whole: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if ".lora_" in name:
            continue
        whole[name.removeprefix(_PREFIX).replace(_FROZEN, ".")] = tensor
        if name.endswith(f"{_FROZEN}weight"):
            layer = name.removesuffix("base_layer.weight")
            down, up = (weights[layer + part].float() for part in (_DOWN, _UP))
            total = tensor.float() + lora.alpha / lora.rank * (up @ down)
            whole[layer.removeprefix(_PREFIX) + "weight"] = total.to(tensor.dtype)
    return whole
