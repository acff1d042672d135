from typing import Any

import pytest

from sphere_ray.config import RunSettings, precision
from sphere_ray.config.precision import flags_have_bfloat16, native_bfloat16
from sphere_ray.config.training import shares_prefixes

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


def test_a_cpu_trains_in_fp32_whatever_its_instructions(native: bool) -> None:
    here = settings()
    assert here.training.precision == here.engines.scorer.trained.training.precision == "fp32"
    assert here.engines.policy.stored_dtype == ("bfloat16" if native else "float32")
    on_gpus = settings(trainer={"use_gpu": True}, engines=served_in("auto", gpus=1))
    assert on_gpus.training.precision == "bf16"
    assert on_gpus.engines.policy.stored_dtype == "bfloat16"


def served_in(dtype: str, gpus: int = 0) -> dict[str, Any]:
    return {
        "policy": {"path": "m", "dtype": dtype},
        "policy_pool": {"kv_cache_gib": 1, "gpus": gpus},
        "scorer": PRM,
    }


def test_a_policy_that_is_kept_in_float32_is_not_trained_in_bf16() -> None:
    bf16 = {"precision": "bf16", "batch_size": 4}
    with pytest.raises(ValueError, match=r"set training\.precision: fp32 or .*dtype: bfloat16"):
        settings(training=bf16, engines=served_in("float32"))
    for dtype in ("bfloat16", "float16"):
        assert settings(training=bf16, engines=served_in(dtype)).training.precision == "bf16"


def test_what_is_named_stays(native: bool) -> None:
    bf16 = {"precision": "bf16", "batch_size": 4}
    named = settings(training=bf16, engines=served_in("bfloat16"))
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
    served = served_in("bfloat16")
    on_gpu = settings(training=flash, trainer={"use_gpu": True}, engines=served)
    assert not shares_prefixes(on_gpu.training.attention)
    with pytest.raises(ValueError, match=r"needs trainer\.use_gpu: true"):
        settings(training=flash | {"precision": "bf16"}, engines=served)
    with pytest.raises(ValueError, match="precision: bf16"):
        settings(training=flash | {"precision": "fp32"}, trainer={"use_gpu": True})
