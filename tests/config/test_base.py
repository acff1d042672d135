from typing import Annotated

from pydantic import Field

from sphere_ray.config.base import Placement, Settings, differences, identity


class Inner(Settings):
    depth: int = 3
    workers: Annotated[int, Placement] = Field(2, ge=1)


class Outer(Settings):
    inner: Inner = Inner()
    many: tuple[Inner, ...] = (Inner(), Inner(depth=4))
    none: Inner | None = None
    pools: Annotated[Inner, Placement] = Inner()


def test_identity_is_flat_and_without_placement() -> None:
    assert identity(seed=1, outer=Outer()) == {
        "seed": 1,
        "outer.inner.depth": 3,
        "outer.many.0.depth": 3,
        "outer.many.1.depth": 4,
        "outer.none": None,
    }


def test_differences_name_both_values() -> None:
    there, here = {"rate": 3e-5, "seed": 0}, {"rate": 1e-5, "seed": 0}
    assert differences(there, here) == ["rate: 3e-05 there, 1e-05 here"]
    assert differences(here, here) == []


def test_differences_show_names_of_one_side_only() -> None:
    assert differences({"a": 1}, {"b": None}) == [
        "b: absent there, None here",
        "a: 1 there, absent here",
    ]
