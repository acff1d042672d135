"""Which parameters decide the results, of the whole run and of each phase.

What only says where, how fast or how long a run works is placement: a committed phase stays valid
when it changes. Must not know of files or of how phases are stored.
"""

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

from sphere_ray.config.base import Settings
from sphere_ray.config.run import RunSettings

Identity = dict[str, Any]
"""Dotted parameter name -> plain JSON value."""

_IDENTITY_IN_PLACEMENT = (
    # Whether seeds reached the engine is a claim about every committed row.
    "engines.*pool.deterministic",
)

_PLACEMENT = (
    "name",
    "run_dir",
    # More iterations, or more patience, continue the same run.
    "iterations",
    "promotion.patience",
    # Limits of what the user tolerates; they stop a run and change no row.
    "problems.max_rejected_share",
    "engines.*pool.*",
    # pydantic dumps the pool of a role that has none as null.
    "engines.small_pool",
    "engines.simulated.latency*",
    "grading.workers",
    "grading.timeout_s",
    "rollout.*",
    # Losses are normalised by the global batch, so its split over workers is free.
    "training.micro_batch_size",
    "training.gradient_checkpointing",
    "training.attention",
    "training.checkpoint_every",
    "engines.scorer.trained.training.micro_batch_size",
    "engines.scorer.trained.training.gradient_checkpointing",
    "engines.scorer.trained.training.checkpoint_every",
    "trainer.*",
    "ray.*",
)

_GENERATION = ("seed", "method.prompts", "engines", "grading")

_PHASES: Mapping[str, tuple[str, ...]] = {
    "problems": ("problems",),
    "rollouts": (*_GENERATION, "method"),
    "pairs": ("seed", "method.pairs"),
    "reference": ("training.reference", "training.max_length", "training.precision"),
    "policy": ("seed", "training"),
    "reward": ("seed", "engines.scorer.trained"),
    "scores": (*_GENERATION,),
    "evaluation": (*_GENERATION, "evaluation"),
    "test": (*_GENERATION, "evaluation"),
}

_NOT_IN_EVALUATION = ("engines.scorer*", "engines.small*")


def dump(settings: Settings) -> dict[str, Any]:
    """The resolved parameters as plain JSON data, as written to config.json."""
    return settings.model_dump(mode="json")


def identity(settings: RunSettings) -> Identity:
    """Every parameter that decides the results of a run, flat."""
    return identity_of_dump(dump(settings))


def identity_of_dump(document: Mapping[str, Any]) -> Identity:
    """The identity of a configuration dumped earlier, perhaps by another version of the code."""
    return {
        name: _model_name(value) if _is_model_path(name) else value
        for name, value in _leaves(document)
        if _matches(name, _IDENTITY_IN_PLACEMENT) or not _matches(name, _PLACEMENT)
    }


def phase_identity(settings: RunSettings, phase: str) -> Identity:
    """The part of the identity that one phase reads by itself (upstream phases add theirs).

    Raises:
        KeyError: `phase` is none of problems, rollouts, pairs, reward, scores, reference,
            policy, evaluation, test.
    """
    groups = _PHASES[phase]
    excluded = _NOT_IN_EVALUATION if phase in ("evaluation", "test") else ()
    return {
        name: value
        for name, value in identity(settings).items()
        if any(f"{name}.".startswith(f"{group}.") for group in groups)
        and not _matches(name, excluded)
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line per parameter that differs: `training.learning_rate: 3e-05 there, 1e-05 here`."""
    names = [*here, *(name for name in there if name not in here)]
    return [
        f"{name}: {_shown(there, name)} there, {_shown(here, name)} here"
        for name in names
        if (name in there) != (name in here) or there.get(name) != here.get(name)
    ]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = dict(enumerate(value)).items()
    else:
        yield name, value
        return
    for key, inner in items:
        yield from _leaves(inner, f"{name}.{key}" if name else str(key))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_model_path(name: str) -> bool:
    return name.startswith("engines.") and name.endswith(".path")


def _model_name(path: str) -> str:
    """A model directory may lie elsewhere on another cluster; its weights have a fingerprint."""
    return path.rstrip("/").rpartition("/")[2]


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "absent"
    text = repr(values[name])
    return text if len(text) <= 80 else f"{text[:50]}...{text[-20:]}"
