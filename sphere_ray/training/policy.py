"""The model being trained: load it, score completions with it, write it for vLLM to load.

It must not know how the model is sharded: what it is given is called like the model itself.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from sphere_ray.config.training import TrainingSettings
from sphere_ray.errors import ModelError
from sphere_ray.method.preference import token_logps
from sphere_ray.training.batches import Tensors

_ATTENTION_DROPOUT = "attention_dropout"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_model(model_dir: str, settings: TrainingSettings) -> PreTrainedModel:
    """Load a causal language model in the training precision, without dropout.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=DTYPES[settings.precision]
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the model in {model_dir} cannot be loaded: {error}") from error
    _disable_dropout(model)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _disable_dropout(model: nn.Module) -> None:
    # With dropout the policy would differ from its reference before the first step.
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, _ATTENTION_DROPOUT):
            setattr(module, _ATTENTION_DROPOUT, 0.0)


def completion_logps(model: Callable[..., Any], tensors: Tensors) -> Tensor:
    """Log-prob in nats of every completion token [n, t], float32; meaningless where masked."""
    width = tensors.completion_ids_nt.shape[1]
    output = model(
        input_ids=tensors.input_ids_ns,
        attention_mask=tensors.attention_mask_ns,
        position_ids=tensors.position_ids_ns,
        logits_to_keep=width + 1,
        use_cache=False,
    )
    return token_logps(output.logits[:, :-1], tensors.completion_ids_nt)


def export(
    model: PreTrainedModel, weights: Mapping[str, Tensor], source_dir: str, output_dir: str
) -> None:
    """Write weights, configuration, tokenizer and generation configuration to `output_dir`.

    Everything but weights and config.json is copied from `source_dir` byte by byte; the directory
    appears by rename.
    """
    target = Path(output_dir)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    # The source's own file is copied below; saving it would fail where it breaks today's rules.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.save_pretrained(partial, state_dict=dict(weights))
    for file in Path(source_dir).iterdir():
        if file.is_file() and file.name != "config.json" and not _holds_weights(file):
            shutil.copyfile(file, partial / file.name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)


def _holds_weights(file: Path) -> bool:
    return file.suffix in {".safetensors", ".bin", ".pt", ".pth", ".gguf"} or file.name.endswith(
        ".index.json"
    )
