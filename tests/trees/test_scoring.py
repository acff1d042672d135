"""Log-probs from hidden states against those from the model's own logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from sphere_ray.config.training import LoraSettings
from sphere_ray.models.tiny import make_llama
from sphere_ray.training.adapters import with_adapters
from sphere_ray.trees import head
from sphere_ray.trees.scoring import TokenScorer

IDS = torch.randint(512, (40,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    make_llama(folder)
    return folder


def scores(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of some tokens: as in training, and from all logits at once."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # an adapter begins as zero
            torch.nn.init.normal_(parameter, std=0.1)
    scorer = TokenScorer(model)
    asked = {"positions_m": torch.arange(39), "ids_m": IDS[1:], "input_ids": IDS[None]}
    return scorer(**asked), scorer(**asked, plain=True)


@pytest.mark.parametrize("targets", [None, "all-linear", ("q_proj", "lm_head")])
def test_scores_are_those_of_the_models_logits(
    llama: Path, targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    monkeypatch.setattr(head, "head_logps", lambda *_: computed.append(1) or LOGPS(*_, 5 * 512))
    model: Any = AutoModelForCausalLM.from_pretrained(llama)
    model.config.tie_word_embeddings = False
    if targets is not None:
        model = with_adapters(model, LoraSettings(target_modules=targets), seed=0)
    found, expected = scores(model)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert bool(computed) == (targets != ("q_proj", "lm_head"))  # an adapted head is called whole


LOGPS = head.head_logps


def test_logits_that_are_more_than_the_heads_are_taken_whole() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.5,
        initializer_range=0.5,
    )
    found, expected = scores(Gemma2ForCausalLM(config).eval())
    torch.testing.assert_close(found, expected)
