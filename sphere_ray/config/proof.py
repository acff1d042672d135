"""Parameters of a proof: variants of one configuration, over seeds (`sphere proof`)."""

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from sphere_ray.config.base import Settings
from sphere_ray.config.problems import SplitSettings

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ProofSettings(Settings):
    """Which runs are compared.

    `config` is the file of a configuration, beside this one. `overrides` change it for all runs,
    and those of a variant for its own: `KEY=VALUE` as for `--set`. The rollouts of the first
    variant are the bank that the others start from. In the overrides of the others, `{tokens}` is
    the number of samples a problem that decode as many tokens as the first rollouts of the bank,
    `{seconds}` the number that takes as long, both estimated from the answers of the base model.

    `guards` are problems that no variant trains on. The base model and the last model of the first
    variant answer them.
    """

    name: Name
    run_dir: str
    config: str
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    overrides: tuple[str, ...] = ()
    variants: dict[Name, tuple[str, ...]]
    guards: dict[Name, SplitSettings] = Field(default_factory=dict)

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("name at least one seed, and each once; for example [0, 1, 2]")
        return seeds

    @field_validator("variants")
    @classmethod
    def _there_is_a_bank(cls, variants: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if not variants:
            raise ValueError("there is no variant; name one, for example search: []")
        return variants
