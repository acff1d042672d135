import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from sphere_ray.config.models import ModelSettings
from sphere_ray.errors import ConfigError, ModelError
from sphere_ray.planning.architectures import KNOWN, architecture_of, from_config

QWEN_7B = {
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # The "model size" of the hub's safetensors metadata, and of the model cards.
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-14b", 14_770_033_664),
        ("qwen2.5-32b", 32_763_876_352),
        ("qwen2.5-72b", 72_706_203_648),
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-3.1-8b", 8_030_261_248),
    ],
)
def test_parameters_are_those_of_the_model_cards(name: str, parameters: int) -> None:
    assert KNOWN[name].parameters == parameters


def test_a_token_of_a_7b_takes_56_kib_of_kv_cache() -> None:
    shape = from_config(QWEN_7B)
    assert shape == KNOWN["qwen2.5-7b"]
    assert shape.kv_bytes(2) == 2 * 28 * 4 * 128 * 2 == 56 << 10
    # Four ranks have a head each; eight hold it twice.
    assert [shape.kv_bytes(2, ranks) for ranks in (2, 4, 8)] == [28 << 10, 14 << 10, 14 << 10]


@pytest.mark.slow
def test_sums_are_what_transformers_builds() -> None:
    """Models on torch's meta device, which have shapes and no memory."""
    sizes = {**QWEN_7B, "num_hidden_layers": 3, "vocab_size": 1000, "head_dim": 128}
    for kind, tied in (("qwen2", False), ("qwen2", True), ("llama", True), ("qwen3", False)):
        document = {**sizes, "model_type": kind, "tie_word_embeddings": tied}
        config = AutoConfig.for_model(**document)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        shape = from_config(document)
        assert shape.parameters == model.num_parameters(), kind
        linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
        inner = [m for m in linear if m is not model.lm_head]
        adapters = sum(8 * (m.in_features + m.out_features) for m in inner)
        assert shape.lora_parameters(8) == adapters


def test_weights_at_hand_are_counted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7)}, tmp_path / "model.safetensors")
    shape, source = architecture_of(ModelSettings(path=str(tmp_path)))
    assert (shape.parameters, shape.layers, source) == (22, 28, "its config.json")


def test_an_unknown_model_needs_its_figures(tmp_path: Path) -> None:
    model = ModelSettings(path="owner/unheard-of")
    with pytest.raises(ConfigError, match=r"--model-config owner/unheard-of=CONFIG\.JSON"):
        architecture_of(model)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(QWEN_7B))
    assert architecture_of(model, {model.path: file})[0] == KNOWN["qwen2.5-7b"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_experts": 64}, "mixture of experts"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"hidden_size": None}, "int"),
        ({"num_attention_heads": 0}, "zero"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**QWEN_7B, **change}))
    with pytest.raises(ModelError, match=told):
        architecture_of(ModelSettings(path="x/y"), {"x/y": file})
