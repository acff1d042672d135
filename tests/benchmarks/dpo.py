"""DPO of SmolLM2 on CPU workers against TRL's DPOTrainer: same pairs, batches, precision, losses.

TRL computes its reference log-probs beforehand, as we do. Tokens are those of both rows of each
pair, without padding. Prints `dpo_vs_trl` (tokens/s) and `dpo_memory` (peak resident memory of a
worker), the worse of one and two workers. With `--tokens 2048` each side is so long, both train
with gradient checkpointing for two steps, and the keys are `dpo_vs_trl_2048` and so on.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from sphere_ray.config.models import ModelSettings
from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.models.source import resolve_model
from sphere_ray.records import Message, PreferencePair, StageName
from sphere_ray.schema import to_table
from sphere_ray.training.batches import planned_steps
from sphere_ray.training.messages import ReferenceRequest, TrainRequest
from tests.benchmarks.grading import DATA, rows
from tests.benchmarks.report import emit, rounded
from tests.training.local_workers import run_requests

MODEL = "embedded:smollm2-135m-instruct"
RATE, SEED = 1e-4, 0
CURVE_TOLERANCE, LEARNT = 1e-3, 0.5
WORKERS = (1, 2)


@dataclass(frozen=True)
class Setup:
    """How much is trained on; `tokens` a side, or as many as a solution has (0)."""

    tokens: int

    pairs = property(lambda self: 4 if self.tokens else 16)
    batch = property(lambda self: 2 if self.tokens else 4)
    epochs = property(lambda self: 1 if self.tokens else 2)
    max_length = property(lambda self: 2 * self.tokens or 2048)
    micro = 2

    def side(self, tokenizer: Any, solutions: Sequence[str]) -> str:
        """The first solution, and others behind it until it is long enough."""
        text = solutions[0]
        for more in cycle(solutions[1:]):
            if len(tokenizer(text)["input_ids"]) >= self.tokens:
                return f"{text}{tokenizer.eos_token}"
            text += f"\n\n{more}"
        raise AssertionError


def write_pairs(model: str, folder: Path, setup: Setup) -> None:
    """Worked solutions of GSM8K against those of another problem, for ours and for TRL."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    every = rows(DATA / "gsm8k" / "train_1500.jsonl")
    solutions = [row["answer"] for row in every]
    found = every[: setup.pairs + 1]
    pairs, lines = [], []
    for number, (row, _) in enumerate(pairwise(found)):
        messages = [{"role": "user", "content": row["question"]}]
        chosen, rejected = (setup.side(tokenizer, solutions[n:]) for n in (number, number + 1))
        pairs.append(
            PreferencePair(
                pair_id=f"{number:04}",
                problem_id=f"{number:04}",
                stage=StageName.SELF_GENERATION,
                prompt=(Message(role="user", content=row["question"]),),
                chosen=chosen,
                rejected=rejected,
                chosen_ids=tuple(tokenizer(chosen)["input_ids"]),
                rejected_ids=tuple(tokenizer(rejected)["input_ids"]),
            )
        )
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        lines.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    (folder / "pairs").mkdir()
    pq.write_table(to_table(pairs, PreferencePair), folder / "pairs" / "part-00000.parquet")
    # TRL takes rows in order: the same global batches as ours, in as many epochs.
    settings = TrainingSettings(batch_size=setup.batch, epochs=setup.epochs)
    batches = [step.examples for step in planned_steps(setup.pairs, settings, seed=SEED)]
    text = "".join(f"{json.dumps(lines[index])}\n" for batch in batches for index in batch)
    (folder / "pairs.jsonl").write_text(text, "utf-8")


def ours(model: str, folder: Path, workers: int, setup: Setup) -> dict[str, Any]:
    """Reference and training by our workers; the group is that of a test, without Ray."""
    settings = TrainingSettings(
        epochs=setup.epochs,
        batch_size=setup.batch,
        micro_batch_size=setup.micro,
        learning_rate=RATE,
        warmup_ratio=0.0,
        schedule="constant",
        max_length=setup.max_length,
        gradient_checkpointing=setup.tokens > 0,
        precision="fp32",
        checkpoint_every=10**6,
    )
    placement = TrainerPlacement(workers=workers, zero_stage=2, cpus_per_worker=2 / workers)
    place = folder / f"ours-{workers}"
    reference = ReferenceRequest(
        model_dir=model,
        pairs_paths=(str(folder / "pairs"),),
        output_dir=str(place / "reference"),
        settings=settings,
        placement=placement,
    )
    train = TrainRequest(
        model_dir=model,
        reference_path=reference.output_dir,
        output_dir=str(place / "model"),
        seed=SEED,
        learning_rate=RATE,
        settings=settings,
        placement=placement,
    )
    _, outcome = run_requests([reference, train], place / "scratch", seconds=3600)
    if isinstance(outcome, Exception):
        raise outcome
    steps = outcome.history
    return {
        "losses": [step.loss for step in steps],
        "seconds": [step.seconds for step in steps],
        "tokens": [step.tokens for step in steps],
    }


def trl(model: str, folder: Path, workers: int, setup: Setup) -> dict[str, Any]:
    """The same by `tests.benchmarks.dpo_trl`, one process a worker."""
    place = folder / f"trl-{workers}"
    place.mkdir()
    environment = os.environ | {
        "WORLD_SIZE": str(workers),
        "OMP_NUM_THREADS": str(2 // workers),
        "ACCELERATE_USE_CPU": "true",
    }
    ranks: list[dict[str, str]] = [{}]  # alone, accelerate must not wrap the model in DDP
    if workers > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(workers)]
    command = [sys.executable, "-m", "tests.benchmarks.dpo_trl", model, str(folder), str(place)]
    processes = [
        subprocess.Popen([*command, str(setup.tokens)], env=environment | rank) for rank in ranks
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"TRL's workers exited with {codes}")
    result: dict[str, Any] = json.loads((place / "result.json").read_text("utf-8"))
    return result


SIDES = {"ours": ours, "trl": trl}


def measured(side: str, model: str, folder: Path, workers: int, setup: Setup) -> dict[str, Any]:
    """One side in a process of its own, whose children's peak memory is known."""
    command = [sys.executable, "-m", __spec__.name]
    done = subprocess.run(
        [*command, "--tokens", str(setup.tokens), "--one", side, model, str(folder), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compared(mine: dict[str, Any], theirs: dict[str, Any], *, learnt: float) -> dict[str, Any]:
    """Figures of one number of workers; the first step warms up and is left out of the rates."""
    apart = float(np.max(np.abs(np.subtract(mine["losses"], theirs["losses"]))))
    if apart > CURVE_TOLERANCE or min(mine["losses"]) > learnt:
        raise SystemExit(f"the loss curves differ: {mine['losses']} and {theirs['losses']}")
    rates = [sum(mine["tokens"][1:]) / sum(each["seconds"][1:]) for each in (mine, theirs)]
    return {
        "tokens_per_s": [rounded(rate) for rate in rates],
        "ratio": rounded(rates[0] / rates[1]),
        "peak_mib": [each["peak_mib"] for each in (mine, theirs)],
        "memory": rounded(mine["peak_mib"] / theirs["peak_mib"]),
        "loss": [rounded(mine["losses"][0]), rounded(mine["losses"][-1])],
        "curves_apart": rounded(apart),
    }


def main() -> None:
    """Print both lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=4, metavar=("SIDE", "MODEL", "FOLDER", "WORKERS"))
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--tokens", type=int, default=0, help="a side, instead of one solution")
    chosen = parser.parse_args()
    setup = Setup(chosen.tokens)
    if chosen.one:
        side, model, folder, workers = chosen.one
        result = SIDES[side](model, Path(folder), int(workers), setup)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        print(json.dumps(result | {"peak_mib": peak}))  # noqa: T201
        return
    model = resolve_model(ModelSettings(path=MODEL))
    found = {}
    with tempfile.TemporaryDirectory(prefix="dpo-") as name:
        folder = Path(name)
        write_pairs(model, folder, setup)
        for workers in chosen.workers:
            found[workers] = compared(
                *(measured(side, model, folder, workers, setup) for side in ("ours", "trl")),
                learnt=1.0 if setup.tokens else LEARNT,
            )
    emit_both(list(found.values()), found, f"_{setup.tokens}" if setup.tokens else "")


def emit_both(values: Sequence[dict[str, Any]], found: dict[int, Any], suffix: str) -> None:
    emit(f"dpo_vs_trl{suffix}", min(each["ratio"] for each in values), by_workers=found)
    emit(f"dpo_memory{suffix}", max(each["memory"] for each in values))


if __name__ == "__main__":
    main()
