"""The families of word problems, by name."""

from collections.abc import Mapping

from sphere_ray.problems.families.additive import ADDITIVE
from sphere_ray.problems.families.family import Family
from sphere_ray.problems.families.groups import GROUPS
from sphere_ray.problems.families.rates import RATES

FAMILIES: Mapping[str, Family] = {family.name: family for family in (*ADDITIVE, *GROUPS, *RATES)}


def operations_of(family: str | None, level: int | None) -> str | None:
    """The operations that a problem of a family and level takes, one for each step: "-" or "* +".

    None for problems of other sources, whose operations are not known.
    """
    known = FAMILIES.get(family or "")
    form = known.levels.get(level or 0) if known else None
    return " ".join(form.operations()) if form else None


__all__ = ["FAMILIES", "Family", "operations_of"]
