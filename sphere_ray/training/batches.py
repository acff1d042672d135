"""Which examples make a step, and which worker computes them.

The order depends on the seed and the epoch alone, so every world size sees the same global batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sphere_ray.config.training import OptimizationSettings, TrainerPlacement
from sphere_ray.errors import ConfigError

Indices = NDArray[np.int64]

FORWARD_TOKENS = 8192
"""Most tokens of a forward of several examples, or two rows of `max_length` if that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Examples of one forward; weight 0 marks a filler, so that all workers make as many."""

    indices: tuple[int, ...]
    weights: tuple[float, ...]


def accumulation(settings: OptimizationSettings, placement: TrainerPlacement) -> int:
    """Forwards of one worker for one optimizer step, where no examples are too long for it.

    Raises:
        ConfigError: batch_size is not a multiple of micro_batch_size x workers.
    """
    forwards, rest = divmod(settings.batch_size, settings.micro_batch_size * placement.workers)
    if rest:
        raise ConfigError(
            f"training.batch_size ({settings.batch_size}) is not a multiple of micro_batch_size "
            f"({settings.micro_batch_size}) x workers ({placement.workers}); change one of them"
        )
    return forwards


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """An optimizer step: 0-based number of all `steps`, epoch, and its examples [b]."""

    number: int
    steps: int
    epoch: int
    examples: Indices


def planned_steps(
    count: int, settings: OptimizationSettings, *, seed: int, first: int = 0
) -> Iterator[PlannedStep]:
    """The steps from the `first` on: each epoch is a seeded permutation of all examples.

    They are planned one by one, so that a million examples cost one permutation at a time. The
    batches of an epoch differ by one example at most, so that each example weighs about as much.
    """
    an_epoch = -(-count // settings.batch_size)
    for number in range(first, settings.epochs * an_epoch):
        epoch, batch = divmod(number, an_epoch)
        if number == first or batch == 0:
            order = np.random.default_rng([seed, epoch]).permutation(count)
        yield PlannedStep(
            number=number,
            steps=settings.epochs * an_epoch,
            epoch=epoch,
            examples=order[batch * count // an_epoch : (batch + 1) * count // an_epoch],
        )


def shard(
    batch: Indices, lengths: Indices, *, rank: int, world: int, settings: OptimizationSettings
) -> list[MicroBatch]:
    """This worker's micro-batches of a global batch; every rank gets as many, of the same sizes.

    Examples of similar length meet in the same forward across ranks (less waiting). A batch that
    is not full is filled with the shortest example of all, at weight 0. Where `micro_batch_size`
    examples of some rank could have more tokens than a forward may, there are more forwards of
    fewer examples, so that one long example takes no more memory than it takes alone.
    """
    micro = settings.micro_batch_size
    ordered = batch[np.lexsort((batch, -lengths[batch]))]
    missing = settings.batch_size - len(ordered)
    filled = np.concatenate([ordered, np.full(missing, np.argmin(lengths))])
    weights = np.concatenate([np.ones(len(ordered)), np.zeros(missing)])
    most = max(FORWARD_TOKENS, 2 * settings.max_length)
    forwards = []
    for first in range(0, settings.batch_size, world * micro):
        size = min(micro, max(1, most // int(lengths[filled[first]])))  # the longest is the first
        row = first + rank * micro
        spans = [slice(n, min(n + size, row + micro)) for n in range(row, row + micro, size)]
        forwards += [
            MicroBatch(indices=tuple(filled[at].tolist()), weights=tuple(weights[at].tolist()))
            for at in spans
        ]
    return forwards
