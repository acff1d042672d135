from typing import Any

import pytest

from sphere_ray.config import RunSettings, precision
from sphere_ray.config.precision import flags_have_bfloat16, native_bfloat16

PRM = {"kind": "process_reward", "model": {"path": "p"}, "pool": {"gpus": 1}}
TRAINED = {"pool": {"kv_cache_gib": 1}}


def settings(**changes: Any) -> RunSettings:
    return RunSettings.model_validate(
        {
            "name": "try",
            "run_dir": "unused",
            "problems": {s: {"source": f"file:{s}"} for s in ("train", "validation", "test")},
            "engines": {
                "policy": {"path": "m"},
                "policy_pool": {"kv_cache_gib": 1},
                "scorer": PRM | {"trained": TRAINED},
            },
            "training": {"batch_size": 4},
        }
        | changes
    )


@pytest.fixture(params=[True, False])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "_on_this_cpu", lambda: request.param)
    return bool(request.param)


def test_auto_is_settled_by_the_hardware_that_computes(native: bool) -> None:
    here = settings()
    assert here.engines.policy.dtype == ("bfloat16" if native else "float32")
    assert here.engines.scorer.model.dtype == "bfloat16"  # on a GPU
    expected = "bf16" if native else "fp32"
    assert here.training.precision == here.engines.scorer.trained.training.precision == expected
    assert settings(trainer={"use_gpu": True}).training.precision == "bf16"


def test_what_is_named_stays(native: bool) -> None:
    named = settings(training={"precision": "bf16", "batch_size": 4})
    assert named.training.precision == "bf16"
    again = RunSettings.model_validate(named.model_dump(mode="json"))
    assert again == named


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 f16c\n", False),
        ("flags\t\t: avx512f avx512_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags : avx512f\nflags : avx512_bf16\n", False),
        ("", False),
    ],
)
def test_the_instructions_are_read_from_cpuinfo(text: str, found: bool) -> None:
    assert flags_have_bfloat16(text) is found


def test_gpus_need_no_such_cpu(native: bool) -> None:
    assert native_bfloat16(gpu=True)
    assert native_bfloat16(gpu=False) is native


def test_flash_attention_needs_its_hardware() -> None:
    flash = {"attention": "flash_attention_2", "batch_size": 4}
    on_gpu = settings(training=flash, trainer={"use_gpu": True})
    assert not on_gpu.training.shares_prefixes
    with pytest.raises(ValueError, match=r"needs trainer\.use_gpu: true"):
        settings(training=flash | {"precision": "bf16"})
    with pytest.raises(ValueError, match="precision: bf16"):
        settings(training=flash | {"precision": "fp32"}, trainer={"use_gpu": True})
