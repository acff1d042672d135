"""Settings for evaluating a model when the user gives none."""

import json
from pathlib import Path

from pydantic import ValidationError

from sphere_ray.config import RunSettings
from sphere_ray.errors import RunDirectoryError


def evaluation_settings(model: str) -> RunSettings:
    """The settings of the run that `model` lies in, else defaults that serve `model` on a CPU.

    Raises:
        RunDirectoryError: the run's config.json cannot be used.
    """
    for folder in Path(model).absolute().parents:
        config = folder / "config.json"
        if folder.joinpath("problems").is_dir() and config.is_file():
            return _settings_of_run(config)
    return RunSettings.model_validate(_on_a_cpu(model))


def _settings_of_run(config: Path) -> RunSettings:
    try:
        return RunSettings.model_validate(json.loads(config.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        raise RunDirectoryError(
            f"{config} was not written by this version of sphere; give the settings by --config"
        ) from error


def _on_a_cpu(model: str) -> dict[str, object]:
    # The three splits have to be named, but an evaluation reads none of them.
    splits = ("train", "validation", "test")
    return {
        "name": "evaluate",
        "run_dir": "runs/evaluate",
        "problems": {s: {"source": f"generated:arithmetic?split={s}"} for s in splits},
        "method": {"search": {"max_chain_tokens": 512, "max_step_tokens": 256}},
        "engines": {
            "policy": {"path": model, "max_model_len": 2048},
            "policy_pool": {"kv_cache_gib": 2},
        },
        "evaluation": {"max_tokens": 1024},
    }
