import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from sphere_ray.config.training import GuardSettings, TrainingSettings
from sphere_ray.errors import CollapseError
from sphere_ray.training.messages import StepMetrics
from sphere_ray.training.steering import check_collapse, check_divergence, learning_rate
from tests.training.steps import STEP

GUARD = GuardSettings(max_chosen_drop=0.5, window=4)


def shifts(*values: float) -> list[StepMetrics]:
    return [replace(STEP, step=i, chosen_shift=shift) for i, shift in enumerate(values, 1)]


def test_a_collapsed_window_stops_training() -> None:
    with pytest.raises(CollapseError, match=r"step 4.*1.00 nats"):
        check_collapse(shifts(0, -1, -1, -2), GUARD)


def test_one_bad_step_does_not() -> None:
    check_collapse(shifts(0, 0, 0, -1.9), GUARD)


def test_it_looks_at_whole_windows_only() -> None:
    check_collapse(shifts(-9, -9, -9), GUARD)
    check_collapse(shifts(-9, -9, -9, -9, 0, 0, 0, 0), GUARD)


@pytest.mark.parametrize("field", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_stops_at_once(field: str, value: float) -> None:
    with pytest.raises(CollapseError, match="diverged at step 1"):
        check_divergence(replace(STEP, **{field: value}), "training")


def rates(schedule: str, warmup: float, steps: int = 10) -> list[float]:
    how = TrainingSettings(schedule=schedule, warmup_ratio=warmup)  # type: ignore[arg-type]
    return [learning_rate(step, steps, 2.0, how) for step in range(steps)]


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    assert rates("constant", 0.4) == pytest.approx([0.4, 0.8, 1.2, 1.6] + [2.0] * 6)


@settings(max_examples=40)
@given(steps=st.integers(1, 30), warmup=st.floats(0, 0.99))
def test_rates_are_those_of_torchs_schedulers(steps: int, warmup: float) -> None:
    before = min(math.ceil(warmup * steps), steps - 1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    falling = CosineAnnealingLR(optimizer, T_max=steps - before)
    rising = LinearLR(optimizer, start_factor=1 / (before + 1), total_iters=before)
    schedule = SequentialLR(optimizer, [rising, falling], [before]) if before else falling
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates("cosine", warmup, steps) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [2, 4, 5, 20])
def test_even_few_steps_have_a_ramp(steps: int) -> None:
    first, second, *_ = rates("constant", 0.1, steps)
    assert first < second <= 2.0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_falls_from_the_peak_without_reaching_zero(schedule: str) -> None:
    values = rates(schedule, 0.0)
    assert values[0] == 2.0
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 0.5


def test_cosine_is_half_way_at_half_time() -> None:
    assert rates("cosine", 0.0)[5] == pytest.approx(1.0)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99])
def test_a_single_step_has_a_rate(warmup: float) -> None:
    assert rates("cosine", warmup, steps=1) == [2.0]
