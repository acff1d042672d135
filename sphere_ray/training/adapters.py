"""LoRA (arXiv 2106.09685): small trained matrices beside the frozen ones, and their sum at the end.

The adapters are peft's. They start as zero, so the model begins as its own reference.
"""

from collections.abc import Iterator, Mapping

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from sphere_ray.config.training import LoraSettings, TrainingSettings
from sphere_ray.errors import ConfigError
from sphere_ray.models.weights import StoredWeights
from sphere_ray.training.policy import DTYPES

_ADAPTED = "base_model.model."
"""What peft puts before the model's names."""


def with_adapters(model: PreTrainedModel, lora: LoraSettings, seed: int) -> PeftModel:
    """Freeze the model and give it adapters; the same ones on every worker.

    Raises:
        ConfigError: a target is not a layer of this model, or its adapters could not be merged.
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
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer) and not isinstance(layer.get_base_layer(), nn.Linear):
            raise ConfigError(
                f"training.lora.target_modules ({targets}) names {name.removeprefix(_ADAPTED)}, "
                "which is no linear layer; adapters of linear layers alone are merged at the end"
            )
    if model.config.tie_word_embeddings and isinstance(model.get_output_embeddings(), LoraLayer):
        raise ConfigError(
            f"training.lora.target_modules ({targets}) names the output layer, whose weights are "
            "those of the embedding in this model; leave it out"
        )
    return adapted


def merged(
    base: StoredWeights, adapters: Mapping[str, Tensor], settings: TrainingSettings
) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the frozen model in float32, with the adapters added: W + alpha / rank * B A.

    `adapters` are the trained matrices by peft's names.
    """
    lora = settings.lora
    assert lora is not None
    for name in base.names():
        # What the adapters were trained beside is the weight in the training's precision.
        weight = base[name].to(DTYPES[settings.precision]).float()
        layer = f"{_ADAPTED}{name.removesuffix('.weight')}"
        down, up = (adapters.get(f"{layer}.lora_{part}.default.weight") for part in "AB")
        if down is not None and up is not None:
            weight += lora.alpha / lora.rank * (up.cpu().float() @ down.cpu().float())
        yield name, weight
