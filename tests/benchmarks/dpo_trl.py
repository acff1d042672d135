"""One worker of TRL's DPOTrainer on the pairs of `tests.benchmarks.dpo`."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import load_dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from sphere_ray.config.training import TrainingSettings
from tests.benchmarks.dpo import RATE, Setup


class Clock(TrainerCallback):
    """Loss and seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)

    def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))


def main(model: str, folder: Path, place: Path, setup: Setup) -> None:
    workers = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    clock = Clock()
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(place / "out"),
            use_cpu=True,
            adam_beta2=TrainingSettings().adam_beta2,
            bf16=False,
            model_init_kwargs={"dtype": "float32"},
            per_device_train_batch_size=setup.micro,
            gradient_accumulation_steps=setup.batch // setup.micro // workers,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=setup.max_length,
            precompute_ref_log_probs=True,
            gradient_checkpointing=setup.tokens > 0,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=load_dataset(
            "json",
            data_files=str(folder / "pairs.jsonl"),
            split="train",
            cache_dir=str(place / "cache"),
        ),
        callbacks=[clock],
    )
    trainer.train()
    if trainer.is_world_process_zero():
        result = {"losses": clock.losses, "seconds": clock.seconds}
        (place / "result.json").write_text(json.dumps(result), "utf-8")
    if dist.is_initialized():  # left to the interpreter's end, gloo aborts now and then
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Setup(int(sys.argv[4])))
