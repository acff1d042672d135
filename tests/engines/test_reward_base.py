"""A reward model to be trained begins as its base, whole or its first layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, Qwen2Model

from sphere_ray.engines.reward_base import prepare_classifier, prepare_step_tags
from sphere_ray.models.tiny import make_llama, make_qwen2, make_qwen2_prm

TEXT = "Tom has 3 apples and buys 30 more."


def tagged(base: Path, target: Path, layers: int | None) -> Any:
    """The body of a prepared model of the step-tag shape."""
    prepare_step_tags(base, target, step_tag="<extra_0>", seed=1, layers=layers)
    return Qwen2Model.from_pretrained(target, dtype=torch.float32)


def classifier(base: Path, target: Path, layers: int | None) -> Any:
    """The body of a prepared sequence classifier."""
    prepare_classifier(base, target, seed=1, layers=layers)
    return AutoModelForSequenceClassification.from_pretrained(
        target, dtype=torch.float32
    ).base_model


@pytest.mark.parametrize("layers", [None, 1, 2])
@pytest.mark.parametrize("make", [make_llama, make_qwen2])
@pytest.mark.parametrize("prepared", [tagged, classifier])
def test_the_body_computes_what_the_first_layers_of_the_base_do(
    tmp_path: Path,
    prepared: Callable[[Path, Path, int | None], Any],
    make: Callable[[Path], None],
    layers: int | None,
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    make(base)
    whole: Any = AutoModel.from_pretrained(base, dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(base).encode(TEXT)])
    with torch.no_grad():
        states = whole(ids, output_hidden_states=True).hidden_states
        # transformers lists the last layer's state after the norm, the others before it.
        first, last = whole.norm(states[1]), states[-1]
        found = prepared(base, tmp_path / "made", layers)(ids).last_hidden_state
    assert torch.allclose(found, first if layers == 1 else last, atol=1e-5)
    assert not torch.allclose(first, last, atol=1e-2)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_base_that_is_a_reward_model_is_taken_over_without_what_lies_beside_it(
    tmp_path: Path, sharded: bool
) -> None:
    base, target = tmp_path / "base", tmp_path / "made"
    base.mkdir()
    make_qwen2_prm(base)
    index = base / "model.safetensors.index.json"
    if sharded:
        (base / "model.safetensors").rename(base / "a.safetensors")
        index.write_text('{"weight_map": {"w": "a.safetensors"}}')
    ours = {file.name: file.read_bytes() for file in base.iterdir()}
    foreign = ["pytorch_model.bin", "b.safetensors", "model.gguf", "original/model.pth"]
    for name in (*foreign, *([] if sharded else [index.name])):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("{}")
    prepare_step_tags(base, target, step_tag="<extra_0>", seed=1)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == ours
