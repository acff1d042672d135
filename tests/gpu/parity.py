"""Training of a tiny model on this device, sharded and not, against plain fp32 on the CPU."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sphere_ray.config.training import LoraSettings, TrainerPlacement, TrainingSettings
from sphere_ray.models.tiny import make_llama
from sphere_ray.training.messages import ReferenceRequest, Request, TrainRequest
from tests.gpu.device import ON_GPU, TINY, finish, significant
from tests.training.local_workers import run_requests
from tests.training.pairs import write_pairs

SETTINGS = TrainingSettings(
    epochs=1 if TINY else 3,
    batch_size=4,
    micro_batch_size=2,
    learning_rate=1e-3,
    max_length=256,
    precision="fp32",
    checkpoint_every=10**6,
)
LORA = {"lora": LoraSettings(rank=4, alpha=8), "learning_rate": 1e-2}
TOLERANCES = {"fp32": 1e-2, "bf16": 0.1}
"""Of a loss; GPUs may multiply fp32 in TF32."""
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "fp32": (0, {}),
    "fp32 ZeRO-3": (3, {}),
    "fp32 dense mask": (0, {"attention": "sdpa"}),
    "fp32 checkpointing": (0, {"gradient_checkpointing": True}),
    "bf16 ZeRO-1": (1, {"precision": "bf16"}),
    "bf16 ZeRO-2": (2, {"precision": "bf16"}),
    "bf16 ZeRO-3": (3, {"precision": "bf16"}),
    "LoRA": (0, LORA),
    "LoRA ZeRO-3": (3, LORA),
}


def curves(root: Path, variants: dict[str, Any], *, use_gpu: bool) -> dict[str, list[float]]:
    """The losses of each variant, trained one after the other by one worker."""
    place = root / ("gpu" if use_gpu else "cpu")

    def of(stage: Any, changes: dict[str, Any]) -> dict[str, Any]:
        return {
            "model_dir": str(root / "model"),
            "settings": SETTINGS.model_copy(update=changes),
            "placement": TrainerPlacement(workers=1, zero_stage=stage, use_gpu=use_gpu),
        }

    requests: list[Request] = [
        ReferenceRequest(
            pairs_paths=(str(root / "pairs"),), output_dir=str(place / "reference"), **of(0, {})
        )
    ]
    requests += [
        TrainRequest(
            reference_path=str(place / "reference"),
            output_dir=str(place / name.replace(" ", "-")),
            seed=0,
            learning_rate=changes.get("learning_rate", SETTINGS.learning_rate),
            **of(stage, changes),
        )
        for name, (stage, changes) in variants.items()
    ]
    _, *outcomes = run_requests(requests, place / "scratch", seconds=500)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    pairs = zip(variants, outcomes, strict=True)
    return {name: [step.loss for step in outcome.history] for name, outcome in pairs}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        root = Path(name)
        (root / "model").mkdir()
        make_llama(root / "model")
        write_pairs(root / "pairs", 12)
        found = exact = curves(root, VARIANTS, use_gpu=ON_GPU)
        if ON_GPU:
            exact = curves(root, {each: VARIANTS[each] for each in ("fp32", "LoRA")}, use_gpu=False)
    apart = {
        name: float(np.abs(np.subtract(curve, exact["LoRA" if "LoRA" in name else "fp32"])).max())
        for name, curve in found.items()
    }
    faults = [
        f"the losses of {name} are {gap:.2g} from those of the CPU"
        for name, gap in apart.items()
        if not gap <= TOLERANCES["bf16" if "bf16" in name else "fp32"]
    ]
    finish({f"{name}, apart": significant(gap) for name, gap in apart.items()}, faults)


if __name__ == "__main__":
    main()
