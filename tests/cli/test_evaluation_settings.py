import json

import pytest

from sphere_ray.commands.evaluate_model import evaluation_settings
from sphere_ray.config import load_config
from sphere_ray.config.base import dump
from sphere_ray.errors import RunDirectoryError


def test_a_model_of_a_run_is_evaluated_as_the_run_did(tmp_path, config):
    settings = load_config(config, ["evaluation.num_samples=3"])
    model = tmp_path / "run" / "iter-000" / "policy" / "model"
    model.mkdir(parents=True)
    (tmp_path / "run" / "problems").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(dump(settings)))
    assert evaluation_settings(str(model)) == settings


def test_a_model_of_its_own_is_served_on_the_cpu(tmp_path):
    (tmp_path / "config.json").write_text("{}")  # A model's, not a run's.
    settings = evaluation_settings(str(tmp_path / "model"))
    assert settings.engines.policy.path == str(tmp_path / "model")
    assert settings.engines.policy_pool.gpus == 0


def test_a_damaged_run_is_named(tmp_path):
    (tmp_path / "problems").mkdir()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"config\.json"):
        evaluation_settings(str(tmp_path / "iter-000"))
