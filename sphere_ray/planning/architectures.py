"""The shape of a language model: its parameters, and the KV cache of a token.

It comes from a config.json where there is one, else from a table of well-known models.
"""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from sphere_ray.config.models import ModelSettings
from sphere_ray.errors import ConfigError, ModelError
from sphere_ray.models.directory import weight_files
from sphere_ray.untrusted import read_bounded

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "auto": 4}
"""Bytes of a number. `auto` is settled when a configuration is read, but where no pool is known."""

_MAX_BYTES = 16 << 20
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_VARIANTS = ("-instruct", "-base", "-it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A dense decoder with gated MLPs, as Llama, Mistral, Qwen2 and Qwen3 are.

    `tied` says that the output layer is the embedding. `reward` is a reward model: two linear
    layers instead of the output layer. `counted` are the parameters in the files of the weights,
    where they are at hand.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    qkv_bias: bool = False
    head_norms: bool = False
    reward: bool = False
    counted: int | None = None

    @property
    def parameters(self) -> int:
        """All parameters: those counted, else the sum over the layers."""
        if self.counted is not None:
            return self.counted
        outputs = self.hidden * self.vocab * (0 if self.tied or self.reward else 1)
        if self.reward:
            outputs = self.hidden * (self.hidden + 1) + 2 * (self.hidden + 1)
        return self.hidden * self.vocab + self.layers * self._layer + self.hidden + outputs

    @property
    def _layer(self) -> int:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys)
        biases = queries + 2 * keys if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.head_norms else 0)
        return attention + biases + norms + 3 * self.hidden * self.intermediate

    def kv_bytes(self, number: int, tensor_parallel: int = 1) -> int:
        """Bytes of the KV cache of a token on each rank, if a number takes `number` bytes.

        Keys and values of every layer; a head is never split, so that more ranks than KV heads
        hold copies.
        """
        heads = math.ceil(self.kv_heads / tensor_parallel)
        return 2 * self.layers * heads * self.head_dim * number

    def lora_parameters(self, rank: int) -> int:
        """Parameters of adapters of this rank on every linear layer but the output one."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = 2 * (self.hidden + queries) + 2 * (self.hidden + keys)
        return self.layers * rank * (ends + 3 * (self.hidden + self.intermediate))


def _shape(sizes: str, *, tied: bool = True, qkv_bias: bool = False) -> Architecture:
    """A shape from its layers, hidden and MLP's width, heads, KV heads and vocabulary."""
    layers, hidden, intermediate, heads, kv_heads, vocab = map(int, sizes.split())
    return Architecture(
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        vocab=vocab,
        tied=tied,
        qkv_bias=qkv_bias,
    )


_QWEN = {
    "0.5b": _shape("24 896 4864 14 2 151936", qkv_bias=True),
    "1.5b": _shape("28 1536 8960 12 2 151936", qkv_bias=True),
    "3b": _shape("36 2048 11008 16 2 151936", qkv_bias=True),
    "7b": _shape("28 3584 18944 28 4 152064", tied=False, qkv_bias=True),
    "14b": _shape("48 5120 13824 40 8 152064", tied=False, qkv_bias=True),
    "32b": _shape("64 5120 27648 40 8 152064", tied=False, qkv_bias=True),
    "72b": _shape("80 8192 29568 64 8 152064", tied=False, qkv_bias=True),
}
KNOWN: Mapping[str, Architecture] = {
    **{f"qwen2.5-{size}": shape for size, shape in _QWEN.items()},
    **{f"qwen2.5-math-{size}": _QWEN[size] for size in ("1.5b", "7b", "72b")},
    **{f"qwen2.5-math-prm-{size}": replace(_QWEN[size], reward=True) for size in ("7b", "72b")},
    "smollm2-135m": _shape("30 576 1536 9 3 49152"),
    "smollm2-360m": _shape("32 960 2560 15 5 49152"),
    "smollm2-1.7b": _shape("24 2048 8192 32 32 49152"),
    "llama-3.2-1b": _shape("16 2048 8192 32 8 128256"),
    "llama-3.2-3b": _shape("28 3072 8192 24 8 128256"),
    "llama-3.1-8b": _shape("32 4096 14336 32 8 128256", tied=False),
    **dict.fromkeys(("tiny:llama", "tiny:guesser"), _shape("2 64 128 2 2 512")),
    "tiny:qwen2": _shape("2 64 128 2 2 512", tied=False, qkv_bias=True),
    "tiny:qwen2-prm": replace(_shape("2 64 128 2 2 512", qkv_bias=True), reward=True),
}
"""As the config.json of each model on the Hugging Face hub has them (those of `tiny:` are made by
`sphere_ray/models/tiny.py`); the sums of parameters are those that the model cards name."""


def architecture_of(
    model: ModelSettings, given: Mapping[str, Path] | None = None
) -> tuple[Architecture, str]:
    """The shape of a model, and where it is from; nothing is downloaded.

    `given` are files config.json by the `path` of a model; then come its directory, the local
    cache of the hub, and the table.

    Raises:
        ConfigError: nothing knows this model.
        ModelError: its config.json is damaged, or of a kind that is not planned here.
    """
    path = model.path
    if given and path in given:
        return _from_file(given[path]), str(given[path])
    directory = Path(os.path.expanduser(path))
    if (directory / "config.json").is_file():
        return _counted(_from_file(directory / "config.json"), directory), "its config.json"
    cached = None
    with suppress(ValueError):  # it cannot be a name of the hub
        cached = try_to_load_from_cache(path, "config.json", revision=model.revision)
    if isinstance(cached, str):
        return _counted(_from_file(Path(cached)), Path(cached).parent), "the cache of the hub"
    name = path.lower().removeprefix("embedded:").rpartition("/")[2]
    for variant in _VARIANTS:
        name = name.removesuffix(variant)
    if name in KNOWN:
        return KNOWN[name], "the table of well-known models"
    raise ConfigError(
        f"nothing here knows the shape of the model {path}: its config.json is not at hand, and it "
        f"is none of the well-known models; give the file with --model-config {path}=CONFIG.JSON"
    )


def from_config(document: Mapping[str, Any]) -> Architecture:
    """The shape that the content of a config.json describes.

    Raises:
        ModelError: it lacks a number, or describes a mixture of experts or quantized weights.
    """
    if any(document.get(name, 1) > 1 for name in _EXPERTS):
        raise ModelError("a mixture of experts is not planned for; name a dense model")
    if document.get("quantization_config"):
        raise ModelError("quantized weights are not planned for; name the whole model")
    kind = str(document.get("model_type", ""))
    try:
        heads, hidden = int(document["num_attention_heads"]), int(document["hidden_size"])
        return Architecture(
            layers=int(document["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(document["intermediate_size"]),
            heads=heads,
            kv_heads=int(document.get("num_key_value_heads") or heads),
            head_dim=int(document.get("head_dim") or hidden // heads),
            vocab=int(document["vocab_size"]),
            tied=bool(document.get("tie_word_embeddings", False)),
            qkv_bias=bool(document.get("attention_bias", kind == "qwen2")),
            head_norms=kind == "qwen3",
            reward=any("Reward" in name for name in document.get("architectures") or ()),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"it has no usable {error} of a decoder") from None


def _from_file(file: Path) -> Architecture:
    try:
        document = json.loads(read_bounded(file, _MAX_BYTES))
        if not isinstance(document, dict):
            raise ModelError("it is no object")
        return from_config(document)
    except (OSError, ValueError, RecursionError, ModelError) as error:
        raise ModelError(f"{file} cannot be planned with: {error}") from None


def _counted(shape: Architecture, directory: Path) -> Architecture:
    """The same with the parameters counted in the headers of its safetensors, if all are there."""
    files = [file for file in weight_files(directory) if file.suffix == ".safetensors"]
    if not files or not all(file.is_file() for file in files):
        return shape
    return replace(shape, counted=sum(map(_parameters_in, files)))


def _parameters_in(file: Path) -> int:
    """The parameters of a safetensors file: eight bytes give the length of its JSON header."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(min(length, _MAX_BYTES)))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
