"""Turns a causal language model into a process reward model that is yet to be trained.

Both shapes are written in the form in which vLLM serves them and training continues: the body of
the base model (or its first layers), and a seeded head of two classes that hardly speaks yet.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from sphere_ray.engines.reward_prompt import NUM_LABELS
from sphere_ray.engines.reward_shape import (
    ARCHITECTURE,
    keeps_head,
    require_layers,
    require_step_tags,
)
from sphere_ray.engines.tokens import load_tokenizer
from sphere_ray.errors import ModelError
from sphere_ray.models.directory import copy_others, weight_files

_HEAD_STD = 0.02
_EMBEDDING_MULTIPLE = 64
"""Rows of the embedding are padded to this, which tensor parallelism divides."""
_SHAPE = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
    *("rope_parameters", "initializer_range", "vocab_size"),
)


def prepare_step_tags(
    base: Path, target: Path, *, step_tag: str, seed: int, layers: int | None = None
) -> None:
    """Write `base`, or its first layers, with a tag and a head as a Qwen2ForProcessRewardModel.

    A base that is one already is copied, head and all.

    Raises:
        ModelError: its architecture is neither Qwen2 nor one that Qwen2's layers contain, or it
            has fewer layers.
    """
    config = _config(base, layers, "step_tags")
    if keeps_head(config.architectures or (), "step_tags"):
        target.mkdir(parents=True, exist_ok=True)
        copy_others(str(base), target)
        for file in weight_files(base):
            shutil.copyfile(file, target / file.name)
        return
    require_step_tags(base)
    tokenizer: Any = load_tokenizer(str(base))
    if step_tag not in tokenizer.get_vocab():
        tokenizer.add_tokens([step_tag], special_tokens=True)
    model = _causal(base, config)
    if len(tokenizer) > config.vocab_size:
        torch.manual_seed(seed)
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=_EMBEDDING_MULTIPLE)
    tensors = dict(model.base_model.state_dict())
    served = _as_qwen2(config, model, tensors)
    head = step_tag_head(config.hidden_size)
    _seed_head(head, seed)
    prefixed = {f"model.{name}": tensor for name, tensor in tensors.items()}
    prefixed |= {f"score.{k}": v.to(model.dtype) for k, v in head.state_dict().items()}
    target.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in prefixed.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    served.save_pretrained(target)
    tokenizer.save_pretrained(target)


def prepare_classifier(base: Path, target: Path, *, seed: int, layers: int | None = None) -> None:
    """Write `base`, or its first layers, as a sequence classifier of two classes.

    Raises:
        ModelError: transformers has no sequence classifier of its architecture, or it has fewer
            layers.
    """
    config = _config(base, layers, "classifier")
    tokenizer: Any = load_tokenizer(str(base))
    torch.manual_seed(seed)
    has_head = keeps_head(config.architectures or (), "classifier")
    config.num_labels = NUM_LABELS
    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            base, config=config, dtype="auto"
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # a head of other classes
        raise ModelError(
            f"trained.base {base} cannot become a sequence classifier ({error}); name another base"
        ) from error
    if not has_head:
        _seed_head(nn.ModuleList([model.get_submodule("score")]), seed)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def step_tag_head(hidden_size: int) -> nn.Sequential:
    """The head of the public format: Linear, ReLU, Linear to two classes."""
    return nn.Sequential(
        nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, NUM_LABELS)
    )


def head_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the head among those of a saved model, by their names in the head."""
    return {
        name.removeprefix("score."): t for name, t in tensors.items() if name.startswith("score.")
    }


def _seed_head(head: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * _HEAD_STD)
            else:
                parameter.zero_()


def _config(base: Path, layers: int | None, shape: str) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"trained.base {base} cannot be loaded: {error}") from error
    if layers is not None:
        require_layers(base, layers, shape)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    return config


def _causal(base: Path, config: PreTrainedConfig) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            base, config=config, dtype="auto"
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"trained.base {base} cannot be loaded: {error}") from error
    return model


def _as_qwen2(
    config: PreTrainedConfig, model: PreTrainedModel, tensors: dict[str, Tensor]
) -> PreTrainedConfig:
    """The configuration as Qwen2; the biases that Qwen2 has are added to `tensors` as zeros."""
    if config.model_type == "llama":
        for name, tensor in list(tensors.items()):
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                tensors[name.replace("weight", "bias")] = torch.zeros(
                    tensor.shape[0], dtype=tensor.dtype
                )
    values = {name: getattr(config, name) for name in _SHAPE}
    values["vocab_size"] = tensors["embed_tokens.weight"].shape[0]
    ends = {name: getattr(config, name) for name in ("eos_token_id", "pad_token_id")}
    make: Any = Qwen2Config
    served: PreTrainedConfig = make(
        **values, **ends, tie_word_embeddings=False, use_sliding_window=False
    )
    served.architectures = [ARCHITECTURE]
    served.num_labels = NUM_LABELS
    served.dtype = model.dtype
    return served
