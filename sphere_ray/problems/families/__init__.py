"""The families of word problems, by name."""

from collections.abc import Mapping

from sphere_ray.problems.families.additive import ADDITIVE
from sphere_ray.problems.families.family import Family
from sphere_ray.problems.families.multiplicative import MULTIPLICATIVE

FAMILIES: Mapping[str, Family] = {family.name: family for family in (*ADDITIVE, *MULTIPLICATIVE)}

__all__ = ["FAMILIES", "Family"]
