from typing import Any

import pytest

from sphere_ray.config.training import OptimizationSettings, TrainerPlacement


@pytest.mark.parametrize(
    ("precision", "placement", "stage"),
    [
        ("fp32", {"workers": 1, "zero_stage": 2}, 0),
        ("fp32", {"workers": 1, "zero_stage": 3}, 3),
        ("fp32", {"workers": 2, "zero_stage": 2}, 2),
        ("bf16", {"workers": 1, "zero_stage": 2}, 2),
        ("bf16", {"workers": 1, "zero_stage": 0}, 1),
        ("bf16", {"workers": 2, "zero_stage": 0}, 1),
        ("bf16", {"workers": 2, "zero_stage": 3}, 3),
        ("fp32", {"workers": 2, "zero_stage": 0}, 0),
        ("fp32", {"workers": 1, "zero_stage": 1, "use_gpu": True, "offload": True}, 1),
    ],
)
def test_one_fp32_worker_goes_without_zero_and_bf16_never_does(
    precision: Any, placement: dict[str, Any], stage: int
) -> None:
    settings = OptimizationSettings(precision=precision)
    assert settings.zero_stage_on(TrainerPlacement(**placement)) == stage
