from pathlib import Path

import pytest
import torch

from sphere_ray.config.training import LoraSettings, TrainingSettings
from sphere_ray.engines.tiny_models import make_llama
from sphere_ray.training.adapters import merged, with_adapters
from sphere_ray.training.policy import load_model

LORA = LoraSettings(rank=4, alpha=8)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_adapters_are_added_in_float32_and_rounded_once(tmp_path: Path, precision: str) -> None:
    make_llama(tmp_path)
    settings = TrainingSettings.model_validate({"precision": precision})
    trained = with_adapters(load_model(str(tmp_path), settings), LORA, seed=1)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    if precision == "bf16":
        trained.to(torch.bfloat16)  # as DeepSpeed does
    weights = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    whole = merged(load_model(str(tmp_path), settings), weights, LORA).state_dict()

    layer = "model.layers.0.mlp.up_proj."
    inner = f"base_model.model.{layer}"
    down, up = (weights[f"{inner}lora_{part}.default.weight"].float() for part in "AB")
    frozen = weights[f"{inner}base_layer.weight"]
    expected = (frozen.float() + LORA.alpha / LORA.rank * (up @ down)).to(frozen.dtype)
    assert torch.equal(whole[f"{layer}weight"], expected)
    assert not torch.equal(whole[f"{layer}weight"], frozen)
    assert whole.keys() == load_model(str(tmp_path), settings).state_dict().keys()
