"""The families of word problems, by name."""

from collections.abc import Mapping

from sphere_ray.problems.families.additive import ADDITIVE
from sphere_ray.problems.families.family import Family
from sphere_ray.problems.families.groups import GROUPS
from sphere_ray.problems.families.rates import RATES

FAMILIES: Mapping[str, Family] = {family.name: family for family in (*ADDITIVE, *GROUPS, *RATES)}

__all__ = ["FAMILIES", "Family"]
