"""What happens where another DeepSpeed is installed, or its private names are gone."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero import parameter_offload

from sphere_ray.compat import deepspeed as private
from sphere_ray.compat import names
from sphere_ray.errors import TrainingError
from sphere_ray.training.deepspeed import ShardedPolicy


class Engine:
    """A ZeRO-3 engine of a newer DeepSpeed; `whole` ones have today's private name."""

    def __init__(self, *, whole: bool) -> None:
        parameter: Any = torch.nn.Parameter(torch.empty(0))
        if whole:
            parameter.ds_shape = torch.Size([3, 2])
        self.module = SimpleNamespace(parameters=lambda: [parameter])

    def zero_optimization_partition_weights(self) -> bool:
        return True


def test_zero3_without_its_private_names_is_refused_in_one_sentence() -> None:
    with pytest.raises(TrainingError, match=r"no ds_shape; install deepspeed==") as raised:
        ShardedPolicy(Engine(whole=False))
    assert "\n" not in str(raised.value)
    ShardedPolicy(Engine(whole=True))


def test_another_version_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        private.warn_if_untested()
        assert not caplog.records
        monkeypatch.setattr(names, "version", lambda _: "9.9.9")
        monkeypatch.delattr(parameter_offload, "FWD_MODULE_STACK")
        private.warn_if_untested()
    assert "9.9.9 is installed" in caplog.text
    assert "no FWD_MODULE_STACK" in caplog.text


def test_what_only_saves_memory_or_time_may_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(parameter_offload, "FWD_MODULE_STACK")
    monkeypatch.setattr(private, "_OPS", "gone")
    private.skip_shared_memory_build()
    private.forget_models()
