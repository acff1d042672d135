"""LoRA (arXiv 2106.09685): small trained matrices beside the frozen ones, and their sum at the end.

The adapters are peft's. They start as zero, so the model begins as its own reference.
"""

from collections.abc import Mapping

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
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
) -> PreTrainedModel:
    """Add trained adapters to the frozen model they belong to: W + alpha / rank * B A.

    `weights` are those of the trained model. New adapters are float32, whatever the trained ones
    are, so the sum is made in float32 and rounded once.
    """
    adapted = with_adapters(model, lora, seed=0)
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted, dict(weights)))
    whole: PreTrainedModel = adapted.merge_and_unload()
    return whole
