import math
from dataclasses import replace

import pytest

from sphere_ray.config.training import GuardSettings
from sphere_ray.errors import CollapseError
from sphere_ray.training.guard import check_collapse, check_divergence
from sphere_ray.training.messages import StepMetrics
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
