"""An update too small for bfloat16 to tell, trained by two real workers: what is left of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sphere_ray.config.models import StoredDtype
from sphere_ray.config.training import LoraSettings, TrainerPlacement, TrainingSettings
from sphere_ray.models.directory import copy_others
from sphere_ray.models.tiny import make_llama
from sphere_ray.training.messages import ReferenceRequest, Request, TrainRequest
from sphere_ray.training.policy import load_model
from sphere_ray.training.reference_table import ReferenceTable
from sphere_ray.trees.pairs import collate
from sphere_ray.trees.scoring import TokenScorer, completion_logps
from tests.training.local_workers import run_requests
from tests.training.pairs import write_pairs

pytestmark = [pytest.mark.engine]

PAIRS = 12
FP32 = TrainingSettings(
    epochs=3,
    batch_size=4,
    micro_batch_size=2,
    learning_rate=1e-5,
    precision="fp32",
    max_length=256,
)
BF16 = FP32.model_copy(update={"precision": "bf16"})
LORA = BF16.model_copy(update={"lora": LoraSettings(rank=4, alpha=8), "learning_rate": 1e-4})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Trainings of a model that was rounded once, so that bf16 and fp32 begin alike."""
    root: Path = tmp_path_factory.mktemp("kept")
    (root / "whole").mkdir()
    make_llama(root / "whole")
    load_model(str(root / "whole"), BF16).save_pretrained(root / "model")
    copy_others(str(root / "whole"), root / "model", but={"config.json"})
    pairs = write_pairs(root / "pairs", PAIRS)

    def training(
        name: str, stage: Any, settings: TrainingSettings, stored: StoredDtype = "float32"
    ) -> TrainRequest:
        return TrainRequest(
            model_dir=str(root / "model"),
            reference_path=str(root / "reference"),
            output_dir=str(root / name),
            seed=5,
            learning_rate=settings.learning_rate,
            settings=settings,
            placement=TrainerPlacement(workers=2, zero_stage=stage),
            stored_dtype=stored,
        )

    requests: dict[str, Request] = {
        "reference": ReferenceRequest(
            model_dir=str(root / "model"),
            pairs_paths=(pairs,),
            output_dir=str(root / "reference"),
            settings=FP32,
            placement=TrainerPlacement(workers=2),
        ),
        "fp32": training("fp32", 0, FP32),
        "zero0": training("zero0", 0, BF16),
        "zero2": training("zero2", 2, BF16),
        "zero3": training("zero3", 3, BF16),
        "rounded": training("rounded", 2, BF16, "bfloat16"),
        "lora": training("lora", 3, LORA),
        "lora-rounded": training("lora-rounded", 2, LORA, "bfloat16"),
    }
    values = run_requests(list(requests.values()), root / "scratch")
    return root, dict(zip(requests, values, strict=True))


def load_exactly(root: Path, name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(root / name, dtype=torch.float32).eval()


def flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def survival(base: torch.Tensor, trained: torch.Tensor, kept: torch.Tensor) -> float:
    return float((kept - base) @ (trained - base) / (trained - base).square().sum())


def margins(model: Any, root: Path) -> torch.Tensor:
    """By how much a model prefers the chosen side of each pair, in nats."""
    table = ReferenceTable(str(root / "reference"))
    pairs = [table.pair(index) for index in range(PAIRS)]
    tensors = collate(pairs, torch.device("cpu"), "sdpa")
    with torch.no_grad():
        logps = completion_logps(TokenScorer(model), tensors) * tensors.completion_mask_nt
    chosen, rejected = logps.sum(dim=1).chunk(2)
    return chosen - rejected


@pytest.mark.parametrize("name", ["zero0", "zero2", "zero3"])
def test_the_weights_written_are_the_optimizers_not_those_of_the_bf16_forward(
    name: str, outcomes: tuple[Path, dict[str, Any]]
) -> None:
    root, values = outcomes
    written, base = flat(load_exactly(root, name)), flat(load_exactly(root, "model"))
    assert (written == written.bfloat16().double()).double().mean() < 0.01
    assert values[name].update_survival == 1
    assert survival(base, written, written.bfloat16().double()) < 0.3


def test_a_bf16_policy_prefers_what_the_fp32_one_does_and_the_nearest_one_does_not(
    outcomes: tuple[Path, dict[str, Any]],
) -> None:
    root, values = outcomes
    begun = load_exactly(root, "model")
    at_first = margins(begun, root)
    masters, kept = load_exactly(root, "zero2"), load_exactly(root, "rounded")
    share = survival(*map(flat, (begun, masters, kept)))
    learned = margins(load_exactly(root, "fp32"), root) - at_first
    in_bf16 = margins(kept, root) - at_first
    nearest = margins(masters.bfloat16().float(), root) - at_first
    assert learned.min() > 0.3
    assert in_bf16.mean().item() == pytest.approx(learned.mean().item(), rel=0.05)
    assert (in_bf16 - learned).abs().max() < 0.15
    assert nearest.mean() < 0.3 * learned.mean()
    assert values["rounded"].update_survival == pytest.approx(share, abs=1e-4)
    assert share == pytest.approx(1, abs=0.05)


def test_merged_adapters_keep_what_they_learned_too(
    outcomes: tuple[Path, dict[str, Any]],
) -> None:
    root, _ = outcomes
    at_first = margins(load_exactly(root, "model"), root)
    merged, kept = load_exactly(root, "lora"), load_exactly(root, "lora-rounded")
    learned, in_bf16 = (margins(model, root) - at_first for model in (merged, kept))
    nearest = margins(merged.bfloat16().float(), root) - at_first
    assert in_bf16.mean().item() == pytest.approx(learned.mean().item(), rel=0.1)
    assert nearest.mean() < 0.5 * learned.mean()
