import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.errors import ConfigError
from sphere_ray.training.batches import (
    FORWARD_TOKENS,
    MicroBatch,
    accumulation,
    planned_steps,
    shard,
)


def settings_for(micro: int, per_rank: int, world: int) -> TrainingSettings:
    return TrainingSettings(micro_batch_size=micro, batch_size=micro * per_rank * world)


def weighted(micro_batches: list[MicroBatch]) -> list[int]:
    return [
        index
        for batch in micro_batches
        for index, weight in zip(batch.indices, batch.weights, strict=True)
        if weight
    ]


@given(
    count=st.integers(1, 60),
    micro=st.integers(1, 3),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_every_world_size_sees_the_same_global_batches(
    count: int, micro: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(2, 500), min_size=count, max_size=count)))
    settings = settings_for(micro, 12, 1).model_copy(update={"epochs": epoch + 1})
    for step in planned_steps(count, settings, seed=seed):
        batch, seen = step.examples, []
        for world in (1, 2, 3, 4):
            settings = settings_for(micro, 12 // world, world)
            shards = [
                shard(batch, lengths, rank=rank, world=world, settings=settings)
                for rank in range(world)
            ]
            # Equal numbers of equal forwards, or collectives would hang.
            assert {len(s) for s in shards} == {12 // world}
            assert {len(m.indices) for s in shards for m in s} == {micro}
            seen.append(sorted(index for s in shards for index in weighted(s)))
        assert seen == [sorted(batch.tolist())] * 4


@given(count=st.integers(1, 200), batch_size=st.integers(1, 64), seed=st.integers(0, 9))
def test_an_epoch_has_every_pair_once_and_epochs_differ(
    count: int, batch_size: int, seed: int
) -> None:
    settings = TrainingSettings(batch_size=batch_size, epochs=2)
    steps = list(planned_steps(count, settings, seed=seed))
    epochs = [
        [index for step in steps if step.epoch == epoch for index in step.examples.tolist()]
        for epoch in range(2)
    ]
    assert all(sorted(order) == list(range(count)) for order in epochs)
    if count > 30:
        assert epochs[0] != epochs[1]
    assert [step.number for step in steps] == list(range(steps[0].steps))
    sizes = {len(step.examples) for step in steps}
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(steps) == 2 * math.ceil(count / batch_size)
    # A resumed training sees what the first would have seen.
    for step, again in zip(
        steps[3:], planned_steps(count, settings, seed=seed, first=3), strict=True
    ):
        assert step.number == again.number
        assert step.examples.tolist() == again.examples.tolist()


@given(
    lengths=st.lists(st.integers(2, 6000), min_size=1, max_size=24),
    micro=st.sampled_from([1, 2, 3, 4]),
    max_length=st.integers(2, 6000),
    world=st.sampled_from([1, 2]),
)
def test_long_examples_are_computed_apart(
    lengths: list[int], micro: int, max_length: int, world: int
) -> None:
    most = max(FORWARD_TOKENS, 2 * max_length)
    tokens = np.array(lengths)
    settings = TrainingSettings(micro_batch_size=micro, batch_size=24, max_length=max_length)
    shards = [
        shard(np.arange(len(lengths)), tokens, rank=rank, world=world, settings=settings)
        for rank in range(world)
    ]
    for forwards in zip(*shards, strict=True):  # under ZeRO-3 a forward is collective
        assert len({len(forward.indices) for forward in forwards}) == 1
        for forward in forwards:
            assert tokens[list(forward.indices)].sum() <= most or len(forward.indices) == 1
    assert sorted(index for each in shards for index in weighted(each)) == list(range(len(lengths)))
    if max(lengths) * micro <= most:
        assert {len(forward.indices) for each in shards for forward in each} == {micro}


def test_fillers_are_the_shortest_pair() -> None:
    lengths = np.array([9, 4, 7])
    settings = settings_for(micro=4, per_rank=1, world=1)
    (micro_batch,) = shard(np.array([0, 2]), lengths, rank=0, world=1, settings=settings)
    assert micro_batch == MicroBatch(indices=(0, 2, 1, 1), weights=(1.0, 1.0, 0.0, 0.0))


def test_a_forward_holds_similar_lengths_on_all_ranks() -> None:
    lengths = np.arange(16)[::-1].copy()
    settings = settings_for(micro=2, per_rank=4, world=2)
    shards = [
        shard(np.arange(16), lengths, rank=rank, world=2, settings=settings) for rank in (0, 1)
    ]
    for forwards in zip(*shards, strict=True):
        widths = [lengths[index] for forward in forwards for index in forward.indices]
        assert max(widths) - min(widths) == 3


def test_a_batch_that_does_not_divide_is_refused() -> None:
    settings = TrainingSettings(batch_size=8, micro_batch_size=3)
    with pytest.raises(ConfigError, match=r"batch_size \(8\)"):
        accumulation(settings, TrainerPlacement(workers=2))
