import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from sphere_ray.config.training import Attention, TrainerPlacement, TrainingSettings
from sphere_ray.models.tiny import make_llama
from sphere_ray.models.weights import StoredWeights
from sphere_ray.training.messages import TrainRequest
from sphere_ray.training.policy import export, load_model
from sphere_ray.trees.pairs import EncodedPair, collate
from sphere_ray.trees.scoring import TokenScorer, check_prefix_sharing, completion_logps

FOREIGN = (
    *("tf_model.h5", "flax_model.msgpack", "model.onnx", "model.onnx_data", "rust_model.ot"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors.index.json"),
    *("model.fp16.safetensors", "consolidated.safetensors", "consolidated.00.pth", "model.gguf"),
    *("model.ckpt", "weights.npz", "optimizer.pt", "adapter_model.bin", "adapter_config.json"),
    *("quantize_config.json", "hf_quant_config.json", "FINGERPRINT", ".gitattributes"),
    *("original/consolidated.00.pth", "original/params.json", "onnx/model.onnx"),
)
"""Weights in other formats and places, and what describes them."""
PAIRS = [
    EncodedPair(pair_id="a", prompt_ids=(5, 6, 7), chosen_ids=(1, 8), rejected_ids=(1, 2, 3)),
    EncodedPair(pair_id="b", prompt_ids=(5, 8), chosen_ids=(4, 4, 4, 4), rejected_ids=(9,)),
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    make_llama(folder)
    return folder


def gradients_and_logps(
    model: Any, device: torch.device, attention: Attention
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the completions alone, and the gradient of their sum at the first weights."""
    tensors = collate(PAIRS, device, attention)
    model.zero_grad()
    logps = completion_logps(TokenScorer(model), tensors)[tensors.completion_mask_nt]
    logps.sum().backward()
    return next(model.parameters()).grad.clone(), logps.detach()


def test_whole_rows_without_a_mask_are_computed_as_the_prefix_tree(model_dir: Path) -> None:
    """The interface of flash attention: transformers reads where rows begin off the positions."""
    model = load_model(str(model_dir), TrainingSettings(precision="fp32"))
    cpu = torch.device("cpu")
    scorer = TokenScorer(model)
    check_prefix_sharing(scorer, PAIRS[0], device=cpu, attention="flash_attention_2")
    packed = gradients_and_logps(model, cpu, "flash_attention_2")
    tree = gradients_and_logps(model, cpu, "tree")
    for one, other in zip(packed, tree, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
def test_flash_attention_computes_the_same(model_dir: Path) -> None:
    pytest.importorskip("flash_attn", reason="the package flash-attn is not installed")
    cuda = torch.device("cuda")
    bf16 = TrainingSettings(precision="bf16", gradient_checkpointing=True)
    found = []
    attentions: tuple[Attention, ...] = ("flash_attention_2", "sdpa")
    for attention in attentions:
        model = load_model(str(model_dir), bf16.model_copy(update={"attention": attention}))
        found.append(gradients_and_logps(model.to(cuda).train(), cuda, attention))
    (packed_gradients, packed), (tree_gradients, tree) = found
    torch.testing.assert_close(packed, tree, atol=0.1, rtol=0)
    close = torch.nn.functional.cosine_similarity(
        packed_gradients.flatten().float(), tree_gradients.flatten().float(), dim=0
    )
    assert close > 0.99


def test_weights_of_the_base_in_other_formats_are_not_copied(
    model_dir: Path, tmp_path: Path
) -> None:
    """Whoever loads those would get the untrained model."""
    source = tmp_path / "source"
    shutil.copytree(model_dir, source)
    model = load_model(str(source), TrainingSettings(precision="fp32"))
    ours = {file.name for file in source.iterdir()} | {"README.md", "LICENSE", "tokenizer.model"}
    for name in ("README.md", "LICENSE", "tokenizer.model"):
        (source / name).write_text("{}")
    for name in FOREIGN:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("{}")
    trained = [(name, weight.detach() + 1) for name, weight in model.named_parameters()]
    request = TrainRequest(
        model_dir=str(source),
        reference_path="",
        output_dir=str(tmp_path / "made"),
        seed=0,
        learning_rate=1.0,
        settings=TrainingSettings(precision="fp32"),
        placement=TrainerPlacement(),
    )
    with closing(StoredWeights(str(source), lambda: model)) as base:
        assert export(trained, base, request) == pytest.approx(1)
    files = {str(file.relative_to(tmp_path / "made")) for file in (tmp_path / "made").rglob("*")}
    assert files == ours
    assert (tmp_path / "made" / "model.safetensors").stat().st_size > 100_000
    assert (tmp_path / "made" / "config.json").read_text() != "{}"
    made = load_model(str(tmp_path / "made"), TrainingSettings(precision="fp32"))
    for name, weight in made.named_parameters():
        assert torch.equal(weight, model.get_parameter(name) + 1), name
