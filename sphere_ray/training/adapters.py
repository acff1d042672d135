"""LoRA (arXiv 2106.09685): small trained matrices beside the frozen ones, and their sum at the end.

The adapters are peft's. They start as zero, so the model begins as its own reference.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from sphere_ray.config.training import LoraSettings
from sphere_ray.errors import ConfigError


def with_adapters(model: PreTrainedModel, lora: LoraSettings, seed: int) -> PeftModel:
    """Freeze the model and give it adapters; the same ones on every worker.

    Raises:
        ConfigError: a target is not a layer of this model.
    """
    targets = lora.target_modules
    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(
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
    assert isinstance(adapted, PeftModel)
    return adapted


def merged(
    model: PreTrainedModel, weights: Mapping[str, Tensor], lora: LoraSettings
) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the frozen model in float32, with the adapters added: W + alpha / rank * B A.

    `weights` are those of the trained adapters.
    """
    adapted = with_adapters(model, lora, seed=0)  # in float32, whatever the model is in
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted, dict(weights)))
    layers: dict[str, Any] = {  # peft's base class names no `get_delta_weight`
        f"{name}.weight": layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    adapted.unload()
    for name, parameter in model.named_parameters():
        weight = parameter.detach().float()
        if layer := layers.get(name):
            weight = weight + layer.get_delta_weight(*layer.active_adapters).detach()
        yield name, weight
