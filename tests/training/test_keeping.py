"""What is written of a trained weight, and what of the update is left in it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sphere_ray.errors import CollapseError
from sphere_ray.training.keeping import Keep, Update, rounded

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def neighbours(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The bfloat16 numbers below and above, in float32; the same one twice on the grid."""
    nearest = weight.to(torch.bfloat16)
    up = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    down = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    below = torch.where(nearest.float() > weight, down, nearest).float()
    return below, torch.where(nearest.float() < weight, up, nearest).float()


@given(st.lists(FLOATS, min_size=1, max_size=20), st.integers(0, 2**40), st.text(max_size=9))
def test_a_weight_goes_to_a_neighbour_and_one_on_the_grid_stays(
    values: list[float], seed: int, name: str
) -> None:
    weight = torch.tensor(values)
    kept = rounded(seed, name, weight)
    below, above = neighbours(weight)
    assert kept.dtype == torch.bfloat16
    assert ((kept.float() == below) | (kept.float() == above)).all()
    assert torch.equal(rounded(seed, name, kept.float()), kept)
    assert torch.equal(rounded(seed, name, weight), kept)


@pytest.mark.parametrize("value", [0.1, -0.1, 1.001, -3.99, 0.9999, 1e-20])
def test_the_nearer_neighbour_is_the_likelier_one(value: float) -> None:
    weight = torch.full((100_000,), value)
    below, above = (side[0].item() for side in neighbours(weight))
    share = (rounded(3, "w", weight).float() == above).double().mean().item()
    assert share == pytest.approx((weight[0].item() - below) / (above - below), abs=0.006)


def test_seed_and_name_draw_apart() -> None:
    weight = torch.full((1000,), 0.1)
    drawn = [rounded(seed, name, weight) for seed, name in [(1, "a"), (2, "a"), (1, "b")]]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert 0.2 < (drawn[one] == drawn[other]).float().mean() < 0.9


def small_update() -> tuple[Tensor, Tensor]:
    """Weights as bfloat16 holds them, and an update of about an eighth of their spacing."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(500, 300, generator=generator).mul_(0.2).to(torch.bfloat16)
    return base, base.float() + 8e-5 * torch.randn(base.shape, generator=generator)


def nearest(_: str, weight: Tensor) -> Tensor:
    return weight.to(torch.bfloat16)


def written(base: Tensor, trained: Tensor, keep: Keep) -> tuple[Tensor, float]:
    """What is kept of one weight, and the share of its update."""
    update = Update(keep)
    ((name, kept),) = update.kept([("weight", trained)], {"weight": base}.__getitem__)
    assert name == "weight"
    return kept, update.survival()


def test_rounding_to_the_nearest_loses_the_update_and_is_refused() -> None:
    with pytest.raises(CollapseError, match=r"only (1\d|2\d)% of what was learned.*dtype: float32"):
        written(*small_update(), nearest)


def test_stochastic_rounding_keeps_it() -> None:
    base, trained = small_update()
    weight, share = written(base, trained, lambda name, weight: rounded(0, name, weight))
    assert weight.dtype == torch.bfloat16
    kept, update = (side.double() - base.double() for side in (weight, trained))
    expected = torch.dot(kept.flatten(), update.flatten()) / update.norm() ** 2
    assert share == pytest.approx(expected.item(), rel=1e-5)
    assert share == pytest.approx(1, abs=0.03)


def test_float32_keeps_all_and_no_update_loses_none() -> None:
    base, trained = small_update()
    kept, share = written(base, trained, lambda _, weight: weight)
    assert share == 1
    assert torch.equal(kept, trained)
    assert written(base, base.float(), nearest)[1] == 1


def test_weights_that_are_not_numbers_are_refused() -> None:
    base, trained = small_update()
    with pytest.raises(CollapseError):
        written(base, trained * torch.nan, nearest)
