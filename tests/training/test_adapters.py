from pathlib import Path

import pytest
import torch

from sphere_ray.config.training import LoraSettings, TrainingSettings
from sphere_ray.errors import ConfigError
from sphere_ray.models.tiny import make_llama
from sphere_ray.models.weights import StoredWeights
from sphere_ray.training.adapters import merged, with_adapters
from sphere_ray.training.policy import load_model

LORA = LoraSettings(rank=4, alpha=8)


@pytest.mark.parametrize(
    ("target", "words"),
    [("lm_head", "names the output layer"), ("embed_tokens", "which is no linear layer")],
)
def test_adapters_that_could_not_be_merged_are_refused(
    tmp_path: Path, target: str, words: str
) -> None:
    make_llama(tmp_path)
    model = load_model(str(tmp_path), TrainingSettings(precision="fp32"))
    with pytest.raises(ConfigError, match=words):
        with_adapters(model, LoraSettings(target_modules=(target,)), seed=0)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_adapters_are_added_in_float32_and_not_rounded(tmp_path: Path, precision: str) -> None:
    make_llama(tmp_path)
    settings = TrainingSettings.model_validate({"precision": precision})
    trained = with_adapters(load_model(str(tmp_path), settings), LORA, seed=1)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-5)  # less than bfloat16 could tell
    weights = {
        name: parameter.detach().clone()
        for name, parameter in trained.named_parameters()
        if parameter.requires_grad
    }
    frozen = load_model(str(tmp_path), settings)
    stored = StoredWeights(str(tmp_path), lambda: frozen)
    before = {name: parameter.detach().clone() for name, parameter in frozen.named_parameters()}
    whole = dict(merged(stored, weights, settings.model_copy(update={"lora": LORA})))

    layer = "model.layers.0.mlp.up_proj."
    down, up = (weights[f"base_model.model.{layer}lora_{part}.default.weight"] for part in "AB")
    expected = before[f"{layer}weight"].float() + LORA.alpha / LORA.rank * (up @ down)
    torch.testing.assert_close(whole[f"{layer}weight"], expected, rtol=0, atol=1e-8)
    assert not torch.equal(whole[f"{layer}weight"], before[f"{layer}weight"].float())
    assert whole.keys() == before.keys()
    assert torch.equal(whole["model.norm.weight"], before["model.norm.weight"].float())
    assert {weight.dtype for weight in whole.values()} == {torch.float32}
