"""Two real workers (gloo, DeepSpeed) against plain torch, on a tiny random model."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sphere_ray.config.models import StoredDtype
from sphere_ray.config.training import (
    GuardSettings,
    LoraSettings,
    LossSettings,
    TrainerPlacement,
    TrainingSettings,
)
from sphere_ray.errors import CollapseError, ModelError
from sphere_ray.models.tiny import make_llama
from sphere_ray.training.adapters import with_adapters
from sphere_ray.training.batches import planned_steps
from sphere_ray.training.messages import (
    LearningResult,
    ReferenceDone,
    ReferenceRequest,
    Request,
    TrainRequest,
)
from sphere_ray.training.policy import load_model
from sphere_ray.training.reference_table import ReferenceTable
from sphere_ray.training.steering import learning_rate
from sphere_ray.trees.pairs import collate
from sphere_ray.trees.scoring import TokenScorer, completion_logps
from tests.training.local_workers import run_requests
from tests.training.pairs import write_pairs

pytestmark = [pytest.mark.engine]

PAIRS = 22  # not a multiple of the batch
RATE = 1e-3
SETTINGS = TrainingSettings(
    epochs=3,
    batch_size=8,
    micro_batch_size=2,
    learning_rate=RATE,
    precision="fp32",
    max_length=256,
    checkpoint_every=4,
    weight_decay=0.1,
    adam_beta2=0.9,
    adam_epsilon=1e-6,
    loss=LossSettings(nll_weight=0.1),
)
BF16 = SETTINGS.model_copy(update={"precision": "bf16"})
LORA = SETTINGS.model_copy(
    update={"lora": LoraSettings(rank=4, alpha=8), "learning_rate": 10 * RATE}
)
COLLAPSING = SETTINGS.model_copy(
    update={
        "learning_rate": 0.3,
        "max_grad_norm": 1e6,
        "loss": LossSettings(beta=5.0),
        "guard": GuardSettings(max_chosen_drop=0.5, window=2),
    }
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every request of this module, run by one pair of workers."""
    root: Path = tmp_path_factory.mktemp("training")
    (root / "model").mkdir()
    make_llama(root / "model")
    pairs = write_pairs(root / "pairs", PAIRS)

    def reference(name: str, stage: Any, **changes: Any) -> ReferenceRequest:
        request = ReferenceRequest(
            model_dir=str(root / "model"),
            pairs_paths=(pairs,),
            output_dir=str(root / name),
            settings=SETTINGS,
            placement=TrainerPlacement(workers=2, zero_stage=stage),
        )
        return replace(request, **changes)

    def training(
        name: str,
        stage: Any,
        settings: TrainingSettings = SETTINGS,
        *,
        stored: StoredDtype = "float32",
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
        "reference": reference("reference", 2),
        "reference-again": reference("again", 2, output_dir=str(root / "reference")),
        "reference-zero3": reference("reference-zero3", 3),
        "zero0": training("zero0", 0),
        "zero2": training("zero2", 2),
        "zero3": training("zero3", 3),
        "zero0-resumed": training("zero0", 0),
        "zero2-resumed": training("zero2", 2),
        "zero3-resumed": training("zero3", 3),
        "bf16": training("bf16", 2, BF16, stored="bfloat16"),
        "lora-zero0": training("lora-zero0", 0, LORA),
        "lora-zero2": training("lora-zero2", 2, LORA),
        "lora-zero3": training("lora-zero3", 3, LORA),
        "checkpointing": training(
            "checkpointing", 3, SETTINGS.model_copy(update={"gradient_checkpointing": True})
        ),
        "collapse": training("collapse", 2, COLLAPSING),
        "no-model": reference("no-model", 2, model_dir=str(root)),
    }
    values = run_requests(list(requests.values()), root / "scratch")
    return root, dict(zip(requests, values, strict=True))


CPU = torch.device("cpu")


def load_plainly(root: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32).train()


@pytest.fixture(scope="module")
def plain_losses(outcomes: tuple[Path, dict[str, Any]]) -> list[float]:
    root, _ = outcomes
    return train_plainly(load_plainly(root), root, RATE)


def train_plainly(model: Any, root: Path, rate: float) -> list[float]:
    """The same training in one process with nothing but torch: no sharding, no batches of rows."""
    table = ReferenceTable(str(root / "reference"))
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.9),
        eps=1e-6,
    )
    batches = [step.examples for step in planned_steps(PAIRS, SETTINGS, seed=5)]

    def logps(prompt: Any, completion: Any) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *completion]])
        every = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return every[range(len(every)), ids[0, 1:]][len(prompt) - 1 :]

    losses = []
    for step, batch in enumerate(batches):
        total = torch.tensor(0.0)
        for index in batch.tolist():
            pair = table.pair(index)
            chosen = logps(pair.prompt_ids, pair.chosen_ids)
            rejected = logps(pair.prompt_ids, pair.rejected_ids)
            reference = [float(np.sum(side)) for side in table.logps(index)]
            margin = (chosen.sum() - reference[0]) - (rejected.sum() - reference[1])
            nll = -chosen.mean()
            total = total - torch.log(torch.sigmoid(0.1 * margin)) + 0.1 * nll
        loss = total / len(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), rate, SETTINGS)
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses(outcome: LearningResult) -> list[float]:
    return [step.loss for step in outcome.history]


@pytest.mark.parametrize("name", ["zero0", "zero2", "zero3", "checkpointing"])
def test_the_loss_curve_is_that_of_plain_torch(
    name: str, outcomes: tuple[Path, dict[str, Any]], plain_losses: list[float]
) -> None:
    outcome = outcomes[1][name]
    nll = [0.1 * -step.chosen_logp for step in outcome.history]
    assert losses(outcome) == pytest.approx(plain_losses, abs=1e-3)
    assert min(np.subtract(losses(outcome), nll)) < 0.5
    assert losses(outcome)[0] == pytest.approx(np.log(2) + nll[0], abs=0.05)


@pytest.mark.parametrize("name", ["zero0", "zero2", "zero3"])
def test_a_resumed_run_has_the_same_curve(name: str, outcomes: tuple[Path, dict[str, Any]]) -> None:
    first, resumed = outcomes[1][name], outcomes[1][f"{name}-resumed"]
    assert (first.resumed_at, resumed.resumed_at) == (0, 8)
    assert losses(resumed) == pytest.approx(losses(first), rel=1e-6)


@pytest.mark.parametrize("name", ["lora-zero0", "lora-zero2", "lora-zero3"])
def test_adapters_are_trained_and_merged_as_peft_does(
    name: str, outcomes: tuple[Path, dict[str, Any]]
) -> None:
    root, values = outcomes
    assert LORA.lora is not None
    model: Any = with_adapters(load_plainly(root), LORA.lora, seed=5)
    curve = train_plainly(model, root, LORA.learning_rate)
    assert losses(values[name]) == pytest.approx(curve, abs=1e-3)
    assert curve[-1] < curve[0] - 0.1
    whole = model.merge_and_unload().state_dict()
    saved = AutoModelForCausalLM.from_pretrained(root / name, dtype=torch.float32).state_dict()
    base = load_plainly(root).state_dict()
    assert saved.keys() == whole.keys() == base.keys()
    assert all(torch.allclose(saved[key], whole[key], atol=1e-3) for key in whole)
    changed = {key for key in base if not torch.equal(saved[key], base[key])}
    assert changed
    assert all("_proj" in key for key in changed)


def test_metrics_say_what_happened(outcomes: tuple[Path, dict[str, Any]]) -> None:
    root, values = outcomes
    first, *_, last = values["zero2"].history
    table = ReferenceTable(str(root / "reference"))
    assert [step.step for step in values["zero2"].history] == list(range(1, 10))
    assert first.chosen_shift == pytest.approx(0, abs=1e-5)
    assert first.margin == pytest.approx(0, abs=1e-5)
    assert last.reward_accuracy == 1.0
    assert last.margin > 1
    assert sum(step.tokens for step in values["zero2"].history[:3]) == table.tokens().sum()


def test_bf16_follows_fp32(outcomes: tuple[Path, dict[str, Any]]) -> None:
    values = outcomes[1]
    assert losses(values["bf16"]) == pytest.approx(losses(values["zero2"]), abs=0.05)


def test_the_reference_is_the_models_own_log_probs(
    outcomes: tuple[Path, dict[str, Any]],
) -> None:
    root, values = outcomes
    assert isinstance(values["reference"], ReferenceDone)
    assert values["reference-again"] == values["reference"]  # its seconds too: nothing was repeated
    assert (values["reference"].pairs, values["reference"].dropped) == (PAIRS, {})
    model = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    for name in ("reference", "reference-zero3"):
        table = ReferenceTable(str(root / name))
        assert len(table) == PAIRS
        for index in (0, 7, PAIRS - 1):
            pair = table.pair(index)
            ids = torch.tensor([[*pair.prompt_ids, *pair.chosen_ids]])
            with torch.no_grad():
                every = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            expected = every[range(len(every)), ids[0, 1:]][len(pair.prompt_ids) - 1 :]
            recorded = table.logps(index)[0]
            assert np.allclose(recorded, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["zero2", "zero3", "bf16"])
def test_the_result_is_a_hugging_face_directory(
    name: str, outcomes: tuple[Path, dict[str, Any]]
) -> None:
    root, _ = outcomes
    source, result = root / "model", root / name
    model = AutoModelForCausalLM.from_pretrained(result, dtype="auto")
    assert model.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)
    assert not torch.equal(
        model.model.layers[0].mlp.up_proj.weight.float(),
        AutoModelForCausalLM.from_pretrained(source).model.layers[0].mlp.up_proj.weight.float(),
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert GenerationConfig.from_pretrained(result).eos_token_id == [2, 0]
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (source, result)]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    assert not list(root.glob("*.partial"))


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("collapse", CollapseError, "training"),
        ("no-model", ModelError, "config.json"),
    ],
)
def test_deliberate_errors_are_returned_not_raised(
    name: str,
    kind: type[Exception],
    words: str,
    outcomes: tuple[Path, dict[str, Any]],
) -> None:
    root, values = outcomes
    assert isinstance(values[name], kind)
    assert words in str(values[name])
    assert not (root / name / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "settings", "worst", "mean"),
    [("zero3", SETTINGS, 1e-3, 1e-3), ("bf16", BF16, 1, 2e-2)],
)
def test_vllm_scores_the_result_like_the_trainer(
    name: str,
    settings: TrainingSettings,
    worst: float,
    mean: float,
    outcomes: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    root, _ = outcomes
    table = ReferenceTable(str(root / "reference"))
    pairs = [table.pair(index) for index in range(PAIRS)]
    chosen = [[*pair.prompt_ids, *pair.chosen_ids] for pair in pairs]
    rejected = [[*pair.prompt_ids, *pair.rejected_ids] for pair in pairs]
    rows = [[int(token) for token in row] for row in chosen + rejected]
    (tmp_path / "ids").write_text(json.dumps(rows))
    subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("vllm_logps.py")),
            str(root / name),
            "bfloat16" if settings.precision == "bf16" else "float32",
            str(tmp_path / "ids"),
            str(tmp_path / "logps"),
        ],
        env=os.environ
        | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        check=True,
        timeout=300,
    )
    theirs = json.loads((tmp_path / "logps").read_text())
    tensors = collate(pairs, CPU)
    with torch.no_grad():
        scorer = TokenScorer(load_model(str(root / name), settings)).eval()
        logps = completion_logps(scorer, tensors)
    differences = [
        abs(ours - other)
        for row, mask, expected in zip(logps, tensors.completion_mask_nt, theirs, strict=True)
        for ours, other in zip(row[mask].tolist(), expected[-int(mask.sum()) :], strict=True)
    ]
    assert max(differences) <= worst
    assert np.mean(differences) <= mean
