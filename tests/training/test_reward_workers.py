"""Two real workers train a reward model of either shape, against plain torch; vLLM agrees."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen2Model

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.scorers import (
    HandoverSettings,
    ProcessRewardSettings,
    StepClassifierSettings,
    TrainedScorerSettings,
)
from sphere_ray.config.training import RewardTrainingSettings, TrainerPlacement
from sphere_ray.engines.process_reward import ProcessRewardScorer
from sphere_ray.engines.reward_base import prepare_classifier, prepare_step_tags
from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.engines.sources import build_engine
from sphere_ray.errors import ModelError, TooFewLabelsError
from sphere_ray.method.ports import ScoreRequest
from sphere_ray.models.tiny import make_llama, make_qwen2
from sphere_ray.records import Candidate, LabelledStep, Problem, StopReason
from sphere_ray.reward.quality import handover_refusal, quality, shape_scores
from sphere_ray.schema import to_table
from sphere_ray.training.batches import planned_steps
from sphere_ray.training.messages import LearningResult, RewardTrainRequest
from sphere_ray.training.steering import learning_rate
from tests.engines.whole_chain import score_chain
from tests.training.local_workers import run_requests

pytestmark = [pytest.mark.engine]

POOL = PoolSettings(kv_cache_gib=0.25, enforce_eager=True, max_num_seqs=64)
SETTINGS = RewardTrainingSettings(
    epochs=5,
    batch_size=8,
    micro_batch_size=2,
    learning_rate=3e-3,
    precision="fp32",
    max_length=256,
    checkpoint_every=4,
    head_rate=2.0,
)
MAX_MODEL_LEN = 512
PROBLEMS = 18  # not a multiple of the batch


def labelled(first: int, count: int) -> list[LabelledStep]:
    """A step that adds is often right, one that subtracts seldom; their length tells nothing."""
    draw = random.Random(first)
    return [
        LabelledStep(
            problem_id=f"p{number:03}",
            question=f"Tom has {number} apples and buys 30 more. How many?",
            prefix=("He buys 30 more.\n\n",) * depth,
            text=f"So it is {number} {'+' if good else '-'} 30 trees.\n\n",
            final=depth == 1,
            value=draw.choice([0.75, 1.0]) if good else draw.choice([0.0, 0.25]),
            outcomes=4,
            reward=0.5,
        )
        for number in range(first, first + count)
        for depth in range(2)
        for good in (True, False)
    ]


def shuffled(steps: Sequence[LabelledStep]) -> list[LabelledStep]:
    """The same steps, each with the value of another."""
    values = random.Random(1).sample([step.value for step in steps], len(steps))
    return [replace(step, value=value) for step, value in zip(steps, values, strict=True)]


TRAIN, HELD_OUT = labelled(0, PROBLEMS), labelled(100, 8)
GATES = HandoverSettings(min_steps=20, max_ece=0.3)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every request of this module, run by one pair of workers."""
    root: Path = tmp_path_factory.mktemp("reward")
    for name, make, layers in (("llama", make_llama, None), ("qwen2", make_qwen2, 1)):
        (root / name).mkdir()
        make(root / name)
        tags = root / f"{name}-tags"
        prepare_step_tags(root / name, tags, step_tag="<extra_0>", seed=1, layers=layers)
    prepare_classifier(root / "llama", root / "llama-classifier", seed=1)
    splits = {"steps": TRAIN, "held_out": HELD_OUT, "shuffled": shuffled(TRAIN)}
    for name, steps in splits.items():
        (root / name).mkdir()
        table = to_table(steps, LabelledStep)
        # Two parts that a problem's steps do not span.
        for part, rows in enumerate((table.slice(0, 12), table.slice(12))):
            path = root / name / f"part-{part:05d}.parquet"
            pq.write_table(rows, path, row_group_size=7)

    def request(
        name: str, base: str, stage: Any, labels: str = "steps", **changes: Any
    ) -> RewardTrainRequest:
        shape = "classifier" if base.endswith("classifier") else "step_tags"
        training = SETTINGS.model_copy(update=changes)
        return RewardTrainRequest(
            model_dir=str(root / base),
            train_path=str(root / labels),
            held_out_path=str(root / "held_out"),
            output_dir=str(root / name),
            scores_path=str(root / f"{name}.parquet"),
            seed=5,
            trained=TrainedScorerSettings(
                shape=shape, pool=POOL, training=training, max_model_len=MAX_MODEL_LEN
            ),
            placement=TrainerPlacement(workers=2, zero_stage=stage),
        )

    requests = {
        "tags-zero2": request("tags-zero2", "llama-tags", 2),
        "tags-zero3": request("tags-zero3", "llama-tags", 3),
        "resumed": request("tags-zero2", "llama-tags", 2),
        "qwen2": request("qwen2-trained", "qwen2-tags", 2),
        "classifier": request("classifier-zero2", "llama-classifier", 2),
        "classifier-zero3": request("classifier-zero3", "llama-classifier", 3),
        "shuffled": request("shuffled-labels", "llama-tags", 2, "shuffled"),
        "too-few": request("too-few", "llama-tags", 2, min_problems=PROBLEMS + 1),
        "no-model": request("no-model", "", 2),
    }
    values = run_requests(list(requests.values()), root / "scratch")
    return root, dict(zip(requests, values, strict=True))


class Plain(nn.Module):
    """A saved reward model by transformers alone: one row per path, no tree, no sharding."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.prompt: Any = None
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        tagged = "tags" in directory.name or "qwen2" in directory.name
        trained = TrainedScorerSettings(pool=POOL)
        self.prompt = RewardPrompt(
            tokenizer, system=trained.system, step_tag=trained.step_tag if tagged else None
        )
        if tagged:
            self.body = Qwen2Model.from_pretrained(directory, dtype=torch.float32)
            hidden = self.body.config.hidden_size
            self.head: Any = nn.Sequential(
                nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2)
            )
            tensors = load_file(directory / "model.safetensors")
            self.head.load_state_dict(
                {k.removeprefix("score."): v for k, v in tensors.items() if "score." in k}
            )
        else:
            whole = AutoModelForSequenceClassification.from_pretrained(
                directory, dtype=torch.float32
            )
            self.body, self.head = whole.model, whole.score

    def forward(self, question: str, steps: Sequence[str]) -> torch.Tensor:
        ids = torch.tensor([self.prompt.ids(question, steps)])
        logits: torch.Tensor = self.head(self.body(ids).last_hidden_state[0, -1])
        return logits

    def rewards(self, steps: Sequence[LabelledStep]) -> list[float]:
        with torch.no_grad():
            return [
                float(self(step.question, [*step.prefix, step.text]).softmax(-1)[1])
                for step in steps
            ]


def plain_losses(root: Path, base: str) -> list[float]:
    """The same training in one process with nothing but torch."""
    model = Plain(root / base)
    rates = (1.0, SETTINGS.head_rate)
    parts = [model.body.parameters(), model.head.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": list(part)} for part in parts], betas=(0.9, 0.95), weight_decay=0.0
    )
    steps: dict[str, list[LabelledStep]] = {}
    for step in TRAIN:
        steps.setdefault(step.problem_id, []).append(step)
    # At each depth right and wrong weigh the same.
    total = {depth: [s for s in TRAIN if s.depth == depth] for depth in (0, 1)}
    factor = {
        d: (
            len(found) / (2 * sum(s.value for s in found)),
            len(found) / (2 * sum(1 - s.value for s in found)),
        )
        for d, found in total.items()
    }
    examples = [steps[name] for name in sorted(steps)]
    batches = [step.examples for step in planned_steps(PROBLEMS, SETTINGS, seed=5)]
    losses = []
    for number, batch in enumerate(batches):
        loss, mass = torch.tensor(0.0), 0.0
        for step in (step for index in batch.tolist() for step in examples[index]):
            logits = model(step.question, [*step.prefix, step.text])
            up, down = factor[step.depth]
            # Prior correction: the balanced odds are the model's times up / down.
            logp = (logits + torch.tensor([down, up]).log()).log_softmax(-1)
            loss = loss - step.value * up * logp[1] - (1 - step.value) * down * logp[0]
            mass += step.value * up + (1 - step.value) * down
        loss = loss / mass
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = learning_rate(number, len(batches), SETTINGS.learning_rate, SETTINGS)
        for group, faster in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * faster
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses(outcome: LearningResult) -> list[float]:
    return [step.loss for step in outcome.history]


@pytest.mark.parametrize(
    ("base", "names", "falls_to"),
    [
        ("llama-tags", ["tags-zero2", "tags-zero3"], 0.75),
        ("llama-classifier", ["classifier", "classifier-zero3"], 0.95),
    ],
)
def test_the_loss_curve_is_that_of_plain_torch(
    base: str, names: list[str], falls_to: float, outcomes: tuple[Path, dict[str, Any]]
) -> None:
    root, values = outcomes
    expected = plain_losses(root, base)
    assert expected[-1] < falls_to * expected[0]
    for name in names:
        assert losses(values[name]) == pytest.approx(expected, abs=2e-3)


def test_a_resumed_run_has_the_same_curve(outcomes: tuple[Path, dict[str, Any]]) -> None:
    _, values = outcomes
    assert (values["tags-zero2"].resumed_at, values["resumed"].resumed_at) == (0, 12)
    assert losses(values["resumed"]) == pytest.approx(losses(values["tags-zero2"]), rel=1e-6)


def test_it_learns_what_the_labels_say(outcomes: tuple[Path, dict[str, Any]]) -> None:
    root, values = outcomes
    for name in ("tags-zero2", "qwen2-trained", "classifier-zero2"):
        scores = np.array(pq.read_table(root / f"{name}.parquet")["score"].to_pylist())
        right = np.array([step.value >= 0.5 for step in HELD_OUT])
        assert scores[right].min() > scores[~right].max()
    assert values["qwen2"].labels == 4 * PROBLEMS


@pytest.mark.parametrize(
    "name", ["tags-zero2", "tags-zero3", "qwen2-trained", "classifier-zero2", "classifier-zero3"]
)
def test_the_recorded_scores_are_those_of_transformers(
    name: str, outcomes: tuple[Path, dict[str, Any]]
) -> None:
    root, _ = outcomes
    recorded = pq.read_table(root / f"{name}.parquet")["score"].to_pylist()
    assert recorded == pytest.approx(Plain(root / name).rewards(HELD_OUT), abs=1e-3)


def test_a_good_model_is_taken_and_one_of_shuffled_labels_refused(
    outcomes: tuple[Path, dict[str, Any]],
) -> None:
    root, _ = outcomes
    baseline = shape_scores(TRAIN, HELD_OUT)
    good, bad = (
        quality(
            HELD_OUT,
            pq.read_table(root / f"{name}.parquet")["score"].to_pylist(),
            baseline=baseline,
        )
        for name in ("tags-zero2", "shuffled-labels")
    )
    assert not handover_refusal(good, GATES)
    assert good["auc"] is not None
    assert good["auc"] > 0.95
    refusal = handover_refusal(bad, GATES)
    assert f"{bad['auc']:.3f}" in refusal or "differ" in refusal


def step(text: str) -> Candidate:
    return Candidate(text=text, token_ids=(1,), logprob=-1.0, stop_reason=StopReason.BOUNDARY)


@pytest.mark.parametrize(
    ("name", "kind"), [("tags-zero2", "process_reward"), ("classifier-zero2", "step_classifier")]
)
def test_our_engine_scores_like_transformers_step_by_step_and_whole(
    name: str,
    kind: str,
    outcomes: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, _ = outcomes
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    steps = HELD_OUT
    model = ModelSettings(path=str(root / name), dtype="float32", max_model_len=MAX_MODEL_LEN)
    settings: dict[str, Any] = {"model": model, "pool": POOL}
    serving = ProcessRewardSettings if kind == "process_reward" else StepClassifierSettings
    spec = EngineSpec(
        kind=kind,
        name=name,
        path=str(root / name),
        model=model,
        pool=POOL,
        settings=serving(**settings),
    )

    async def scores() -> tuple[list[float], list[float]]:
        engine: Any = build_engine(spec)
        await engine.start()
        found, whole = [], []
        for each in steps:
            request = ScoreRequest(
                problem=Problem(
                    problem_id=each.problem_id, question=each.question, answer="1", source="t"
                ),
                messages=(),
                prefix=tuple(map(step, each.prefix)),
                candidates=(step(each.text),),
                seed=0,
            )
            found.append((await engine.score(request))[0].reward)
            if isinstance(engine, ProcessRewardScorer):
                chain = await score_chain(engine, each.question, (*each.prefix, each.text))
                whole.append(chain[-1])
        await engine.close()
        return found, whole

    found, whole = asyncio.run(scores())
    expected = Plain(root / name).rewards(steps)
    assert found == pytest.approx(expected, abs=1e-3)
    if whole:
        assert whole == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("too-few", TooFewLabelsError, f"only {PROBLEMS} problems"),
        ("no-model", ModelError, "config.json"),
    ],
)
def test_deliberate_errors_are_returned_not_raised(
    name: str, kind: type[Exception], words: str, outcomes: tuple[Path, dict[str, Any]]
) -> None:
    root, values = outcomes
    assert isinstance(values[name], kind)
    assert words in str(values[name])
    assert not (root / name / "config.json").exists()
