"""The model being trained: load it, write it for vLLM to load."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sphere_ray.config.training import OptimizationSettings, TrainingSettings
from sphere_ray.errors import ModelError
from sphere_ray.models.directory import copy_others, new_directory
from sphere_ray.models.source import require_dense
from sphere_ray.models.weights import StoredWeights, write_weights
from sphere_ray.training.keeping import Update, keeping
from sphere_ray.training.messages import TrainRequest

_ATTENTION_DROPOUT = "attention_dropout"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_model(model_dir: str, settings: TrainingSettings) -> PreTrainedModel:
    """Load a causal language model in the training precision, without dropout.

    Raises:
        ModelError: it cannot be loaded, is a mixture of experts, or the package of its attention
            is not there.
    """
    require_dense(model_dir)
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


def export(
    weights: Iterable[tuple[str, Tensor]], base: StoredWeights, request: TrainRequest
) -> float:
    """Write trained float32 weights as they come, and all else that the model's directory has.

    Everything but weights and config.json is copied from the model byte by byte. Returns the share
    of the update that survives (`keeping.Update`).

    Raises:
        CollapseError: too little of it would have been left; nothing is written.
    """
    update, precision = Update(keeping(request)), DTYPES[request.settings.precision]
    with new_directory(request.output_dir) as directory:
        # Training began with what loading made of the stored weights.
        write_weights(update.kept(weights, lambda name: base[name].to(precision)), directory)
        survival = update.survival()
        config = AutoConfig.from_pretrained(request.model_dir)
        config.dtype = getattr(torch, request.stored_dtype)
        config.save_pretrained(directory)
        copy_others(request.model_dir, directory, but={"config.json"})
    return survival
