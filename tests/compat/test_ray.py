"""With another Ray than the tested one rows wait for their batch, and a sentence says so."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from ray.data._internal.planner import plan_udf_map_op as planner

from sphere_ray.compat import names, ray


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    ray.found_doubts.cache_clear()
    yield
    ray.found_doubts.cache_clear()


def test_the_installed_ray_is_the_tested_one() -> None:
    assert ray.found_doubts() == ()


def test_batches_become_blocks_while_a_plan_is_made_and_not_afterwards() -> None:
    options = planner.OutputBlockSizeOption
    with ray.batches_as_blocks():
        made = planner.OutputBlockSizeOption.of(target_max_block_size=1 << 27)
        assert made == options(disable_block_shaping=True)
        by_rows = planner.OutputBlockSizeOption.of(target_num_rows_per_block=4)
        assert by_rows == options(target_num_rows_per_block=4)  # a repartition's
    assert planner.OutputBlockSizeOption is options


@pytest.mark.parametrize("change", ["version", "name"])
def test_another_ray_plans_as_it_likes_and_the_user_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    if change == "version":
        monkeypatch.setattr(names, "version", lambda _: "2.61.0")
    else:
        monkeypatch.delattr(planner, "OutputBlockSizeOption")
    before = getattr(planner, "OutputBlockSizeOption", None)
    with caplog.at_level(logging.WARNING), ray.batches_as_blocks():
        assert getattr(planner, "OutputBlockSizeOption", None) is before
    with ray.batches_as_blocks():
        pass
    (record,) = caplog.records
    assert record.getMessage().endswith("install ray==2.60.0")


def test_streams_that_are_planned_at_once_leave_the_plan_as_it_was() -> None:
    options = planner.OutputBlockSizeOption
    one, other = ray.batches_as_blocks(), ray.batches_as_blocks()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(one)
        second.enter_context(other)
        first.close()  # in the order in which they began, as threads may
        made = planner.OutputBlockSizeOption.of(target_max_block_size=1 << 27)
        assert made == options(disable_block_shaping=True)
    assert planner.OutputBlockSizeOption is options
