"""The model being trained: load it, score completions with it, write it for vLLM to load.

Nothing here knows how the model is sharded: a sharded model is called like the model itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from sphere_ray.config.training import OptimizationSettings, TrainingSettings
from sphere_ray.errors import ModelError
from sphere_ray.method.preference import token_logps
from sphere_ray.models.directory import copy_others, new_directory
from sphere_ray.training.batches import Tensors, collate
from sphere_ray.training.encoding import EncodedPair

_ATTENTION_DROPOUT = "attention_dropout"
SHARING_TOLERANCE = 0.1
"""Nats per token, on average; bfloat16 rounds to about 0.01."""
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


def completion_logps(model: Callable[..., Any], tensors: Tensors) -> Tensor:
    """Log-prob in nats of every completion token [n, t], float32; meaningless where masked."""
    output = model(**tensors.inputs, logits_to_keep=tensors.parents_m, use_cache=False)
    logps_1m = token_logps(output.logits, tensors.scored_ids_1m)
    return logps_1m[0][tensors.nodes_nt]


@torch.no_grad()
def check_prefix_sharing(
    model: Callable[..., Any], pair: EncodedPair, *, device: torch.device, shared: bool
) -> None:
    """Compare a pair's log-probs in one forward with those in a forward for each side.

    Raises:
        ModelError: they differ by more than rounding; the model's layers do not all follow the
            attention mask (recurrent ones, or a sliding window shorter than the pair).
    """
    shared_nt = completion_logps(model, collate([pair], device, shared=shared))
    differences = []
    for row, completion in enumerate((pair.chosen_ids, pair.rejected_ids)):
        ids_1s = torch.tensor([[*pair.prompt_ids, *completion]], device=device)
        kept = len(completion) + 1
        logits = model(input_ids=ids_1s, logits_to_keep=kept, use_cache=False).logits
        alone_t = token_logps(logits[:, :-1], ids_1s[:, -len(completion) :])[0]
        differences.append((shared_nt[row, : len(completion)] - alone_t).abs().mean().item())
    require_parity(differences, SHARING_TOLERANCE, "log-probs per token", "training")


def require_parity(
    differences: Sequence[float], tolerance: float, what: str, settings: str
) -> None:
    """Check that a forward over shared prefixes gives what plain forwards give.

    It comes after all of them: under ZeRO-3 every worker has to make the same number of forwards.

    Raises:
        ModelError: a difference is above the tolerance.
    """
    if max(differences) > tolerance:
        raise ModelError(
            f"this model cannot be trained with shared prefixes: its {what} come out "
            f"{max(differences):.2g} apart; its layers must follow the attention mask and the "
            "positions they are given: recurrent ones do not, nor do those with a sliding window "
            f"shorter than {settings}.max_length under attention: sdpa"
        )


def export(model: PreTrainedModel, source_dir: str, output_dir: str) -> None:
    """Write a model, its tokenizer and its generation configuration to `output_dir`.

    Everything but weights and config.json is copied from `source_dir` byte by byte.
    """
    # The original file is copied below; saving it would fail where it breaks today's rules.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    with new_directory(output_dir) as directory:
        model.save_pretrained(directory)
        copy_others(source_dir, directory, but={"config.json"})
