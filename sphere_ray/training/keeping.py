"""What is learned stays in the weights that are written.

A step of training is often smaller than half the distance between two bfloat16 numbers, so rounding
each weight to the nearest would undo it. Here a weight goes to one of its two neighbours by chance,
the nearer the likelier, so that on average nothing is lost (stochastic rounding, arXiv 1502.02551).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import blake2b

import torch
from torch import Tensor

from sphere_ray.errors import CollapseError
from sphere_ray.training.messages import LearningRequest

MIN_SURVIVAL = 0.9

Keep = Callable[[str, Tensor], Tensor]
"""What is written of a float32 weight of that name."""


def keeping(request: LearningRequest) -> Keep:
    """How the weights of this training are written."""
    if request.stored_dtype == "float32":
        return lambda _, weight: weight
    return partial(rounded, request.seed)


def rounded(seed: int, name: str, weight: Tensor) -> Tensor:
    """Round float32 to bfloat16 by chance, on the CPU; seed and name decide, unbiased.

    Both formats are sign and magnitude, and the lower half of the 32 bits is how far the number
    lies between its neighbours: a random half is added, and what carries over goes up.
    """
    digest = blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest))
    bits = weight.cpu().view(torch.int32)
    chance = torch.randint(1 << 16, bits.shape, generator=generator, dtype=torch.int32)
    return chance.add_(bits).bitwise_and_(-1 << 16).view(torch.float32).to(torch.bfloat16)


class Update:
    """Trained weights on their way into a file, and how much of what was learned survives it."""

    def __init__(self, keep: Keep) -> None:
        """Begin with nothing."""
        self._keep, self._along, self._squares = keep, 0.0, 0.0

    def kept(
        self, weights: Iterable[tuple[str, Tensor]], base: Callable[[str], Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """What is written of each float32 weight; `base` gives what training began with."""
        for name, weight in weights:
            trained, before = weight.cpu(), base(name).float()
            kept = self._keep(name, trained)
            update = trained - before
            self._squares += update.square().sum(dtype=torch.float64).item()
            self._along += ((kept.float() - before) * update).sum(dtype=torch.float64).item()
            yield name, kept

    def survival(self) -> float:
        """The share of the update that survives: the kept one projected on the whole one.

        That is <kept - base, trained - base> / |trained - base|^2 over all weights so far; 1 where
        nothing changed.

        Raises:
            CollapseError: it is below `MIN_SURVIVAL`.
        """
        survival = self._along / self._squares if self._squares else 1.0
        if not survival >= MIN_SURVIVAL:
            raise CollapseError(
                f"only {survival:.0%} of what was learned is left in the 16-bit weights that "
                "engines would load; set engines.policy.dtype: float32, or raise "
                "training.learning_rate"
            )
        return survival
