"""Which settings a report shows as changed, and as different between runs."""

import pytest

from sphere_ray.report.settings import changed_settings, differing_settings
from tests.report.made import settings


@pytest.fixture(scope="module")
def changed():
    return {each["name"]: each for each in changed_settings(settings("runs/x", seed=3))}


def test_only_what_was_set_or_must_be_is_shown(changed):
    assert changed["seed"] == {"name": "seed", "default": "0", "value": "3"}
    assert changed["engines.policy.path"]["default"] is None
    assert changed["method.search.boundary"]["default"] == '"\\n\\n"'
    assert "method.search.temperature" not in changed
    assert "run_dir" not in changed
    # The scorer is of the default's kind, and its group is compared field by field.
    assert "engines.scorer.kind" not in changed
    assert "engines.scorer.trained.pool.kv_cache_gib" in changed


def test_runs_differ_in_what_differs():
    one, other = settings("runs/x"), settings("runs/y", seed=3)
    assert differing_settings([one, other]) == [("seed", ["0", "3"])]
    assert differing_settings([one, one]) == []


def test_long_values_are_cut():
    long = settings("x", method={"prompts": {"question": "{question}" + "a" * 500}})
    (found,) = [e for e in changed_settings(long) if e["name"] == "method.prompts.question"]
    assert len(found["value"]) < 250
    assert found["value"].endswith("...")
