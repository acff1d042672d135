"""The model being trained: load it, write it for vLLM to load."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from sphere_ray.config.training import OptimizationSettings, TrainingSettings
from sphere_ray.errors import ModelError
from sphere_ray.models.directory import copy_others, new_directory

_ATTENTION_DROPOUT = "attention_dropout"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_model(model_dir: str, settings: TrainingSettings) -> PreTrainedModel:
    """Load a causal language model in the training precision, without dropout.

    Raises:
        ModelError: it cannot be loaded, or the package of its attention is not there.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=DTYPES[settings.precision], attn_implementation=settings.attention
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"the model in {model_dir} cannot be loaded: {error}") from error
    make_ready(model, settings)
    return model


def make_ready(model: PreTrainedModel, settings: OptimizationSettings) -> None:
    """Switch dropout off, and gradient checkpointing on where it is asked for."""
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # With dropout the policy would differ from its reference before the first step.
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, _ATTENTION_DROPOUT):
            setattr(module, _ATTENTION_DROPOUT, 0.0)


def export(model: PreTrainedModel, source_dir: str, output_dir: str) -> None:
    """Write a model, its tokenizer and its generation configuration to `output_dir`.

    Everything but weights and config.json is copied from `source_dir` byte by byte.
    """
    # The original file is copied below; saving it would fail where it breaks today's rules.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    with new_directory(output_dir) as directory:
        model.save_pretrained(directory)
        copy_others(source_dir, directory, but={"config.json"})
