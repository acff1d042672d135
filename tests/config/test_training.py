import re
from pathlib import Path
from typing import Any

import pytest

from sphere_ray.config.base import identity
from sphere_ray.config.engines import EngineSettings
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


def test_checkpoints_go_where_they_are_told_and_runs_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert TrainerPlacement().checkpoints("/runs/a", 2) == "/runs/a/iter-002/_train"
    for place, where in (("fast", f"{tmp_path}/fast"), ("s3://bucket/x", "s3://bucket/x")):
        placement = TrainerPlacement(checkpoint_dir=place)
        found = {placement.checkpoints(run, 2) for run in ("/runs/a", "/others/a", "s3://runs/a")}
        assert len(found) == 3
        assert all(re.fullmatch(rf"{re.escape(where)}/a-\w+/iter-002", each) for each in found)
    assert identity(trainer=TrainerPlacement(checkpoint_dir="x")) == {}


def test_arguments_of_vllm_have_an_engine() -> None:
    served = {"policy": {"path": "m", "engine_args": {"quantization": "fp8"}}}
    pool = {"policy_pool": {"kv_cache_gib": 1}}
    EngineSettings.model_validate({**served, **pool})
    with pytest.raises(ValueError, match="engine_args are for vLLM"):
        EngineSettings.model_validate({**served, **pool, "backend": "simulated"})
