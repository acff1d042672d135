"""The model halfway between two, against a plain average in memory."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sphere_ray.errors import ModelError
from sphere_ray.training.average import average

CONFIG = LlamaConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    tie_word_embeddings=False,
)


def model(folder: Path, seed: int, dtype: torch.dtype, **options: Any) -> Path:
    torch.manual_seed(seed)
    LlamaForCausalLM(CONFIG).to(dtype).save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text(f"tokenizer {seed}")
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", ["5GB", "4KB"])
def test_every_weight_is_the_mean_or_its_neighbour(
    tmp_path: Path, dtype: torch.dtype, shard: str
) -> None:
    start = model(tmp_path / "start", 0, torch.bfloat16)
    trained = model(tmp_path / "trained", 1, dtype, max_shard_size=shard)
    average(str(start), str(trained), str(tmp_path / "mean"))
    one, two, mean = tensors(start), tensors(trained), tensors(tmp_path / "mean")
    assert mean.keys() == two.keys()
    for name, found in mean.items():
        expected = (one[name].double() + two[name].double()) / 2
        if dtype == torch.float32:
            assert torch.equal(found, expected.float()), name
        else:  # up or down by chance, at most to the next number
            gap = (found.double() - expected).abs()
            assert (gap < expected.abs() * 2**-7 + 1e-30).all(), name
            assert abs((found.double() - expected).mean()) <= gap.mean(), name
    assert {file.name for file in (tmp_path / "mean").iterdir()} == {
        file.name for file in trained.iterdir()
    }
    assert (tmp_path / "mean" / "tokenizer.json").read_text() == "tokenizer 1"


def test_the_mean_of_a_model_with_itself_is_that_model_and_loads(tmp_path: Path) -> None:
    only = model(tmp_path / "one", 0, torch.bfloat16, max_shard_size="4KB")
    average(str(only), str(only), str(tmp_path / "mean"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "mean", dtype=torch.bfloat16)
    before = AutoModelForCausalLM.from_pretrained(only, dtype=torch.bfloat16)
    assert all(map(torch.equal, loaded.state_dict().values(), before.state_dict().values()))


def test_what_is_no_float_is_the_trained_models(tmp_path: Path) -> None:
    start, trained = (model(tmp_path / name, 0, torch.float32) for name in ("start", "trained"))
    for folder, value in ((start, 3), (trained, 6)):
        file = folder / "model.safetensors"
        save_file({**load_file(file), "count": torch.tensor([value])}, file, {"format": "pt"})
    average(str(start), str(trained), str(tmp_path / "mean"))
    assert tensors(tmp_path / "mean")["count"].tolist() == [6]


@pytest.mark.parametrize("fault", ["no safetensors", "another shape", "a weight is missing"])
def test_models_that_differ_in_their_weights_have_no_mean(tmp_path: Path, fault: str) -> None:
    start, trained = (model(tmp_path / name, 0, torch.float32) for name in ("start", "trained"))
    file = start / "model.safetensors"
    weights = load_file(file)
    if fault == "another shape":
        weights["model.norm.weight"] = torch.ones(3)
    else:
        del weights["model.norm.weight"]
    file.unlink()
    if fault != "no safetensors":
        save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match="leave halfway out"):
        average(str(start), str(trained), str(tmp_path / "mean"))
    assert not (tmp_path / "mean").exists()


def test_weights_that_lie_beside_the_start_do_not_enter_the_mean(tmp_path: Path) -> None:
    start, trained = (model(tmp_path / name, 0, torch.float32) for name in ("start", "trained"))
    other = {k: v + 1 for k, v in load_file(start / "model.safetensors").items()}
    save_file(other, start / "model.variant.safetensors", {"format": "pt"})
    average(str(start), str(trained), str(tmp_path / "mean"))
    mean, expected = tensors(tmp_path / "mean"), tensors(trained)
    assert all(torch.equal(mean[name], weight) for name, weight in expected.items())


def test_an_average_that_was_interrupted_is_made_again(tmp_path: Path) -> None:
    start = model(tmp_path / "start", 0, torch.float32)
    trained = model(tmp_path / "trained", 1, torch.float32, max_shard_size="4KB")
    index = trained / "model.safetensors.index.json"
    last = max(json.loads(index.read_text())["weight_map"].values())
    kept = (trained / last).read_bytes()
    (trained / last).write_bytes(b"")
    with pytest.raises(SafetensorError):
        average(str(start), str(trained), str(tmp_path / "mean"))
    assert not (tmp_path / "mean").exists()
    (trained / last).write_bytes(kept)
    average(str(start), str(trained), str(tmp_path / "mean"))
    shutil.rmtree(trained)
    assert tensors(tmp_path / "mean")
