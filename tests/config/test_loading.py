from pathlib import Path
from typing import Any

import pytest
import yaml

from sphere_ray.config import load_config
from sphere_ray.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path, minimal: dict[str, Any]) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(minimal))
    return path


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_fill_what_the_file_leaves_out(config: Path) -> None:
    settings = load_config(config)
    assert settings.name == "try"
    assert settings.method.search.num_candidates == 5


def test_overrides_set_nested_values_and_the_last_one_wins(config: Path) -> None:
    settings = load_config(
        config,
        [
            "training.learning_rate=3e-5",
            "iterations=2",
            "iterations=3",
            "engines.scorer={kind: rollout_value, num_completions: 2}",
            "method.prompts.system=null",
        ],
    )
    assert settings.training.learning_rate == 3e-5
    assert settings.iterations == 3
    assert settings.method.prompts.system is None


def test_an_override_may_contain_equal_signs_and_colons(config: Path) -> None:
    source = "generated:arithmetic?seed=1&split=train"
    settings = load_config(config, [f"problems.train.source={source}"])
    assert settings.problems.train.source == source


def test_an_override_reaches_into_a_list(config: Path, minimal: dict[str, Any]) -> None:
    document = minimal | {"method": {"prompts": {"examples": [{"question": "q", "response": "r"}]}}}
    config.write_text(yaml.safe_dump(document))
    settings = load_config(config, ["method.prompts.examples.0.response=better"])
    assert settings.method.prompts.examples[0].response == "better"
    assert "holds a list of 1 entries" in complaint(config, "method.prompts.examples.1.response=x")


def test_an_unknown_key_gets_the_closest_name(config: Path, minimal: dict[str, Any]) -> None:
    config.write_text(yaml.safe_dump(minimal | {"training": {"learning_rat": 1e-5}}))
    message = complaint(config)
    assert str(config) in message
    assert "training.learning_rat is not a known key; did you mean learning_rate?" in message


def test_an_unknown_key_in_the_wrong_group_gets_its_full_path(
    config: Path, minimal: dict[str, Any]
) -> None:
    config.write_text(yaml.safe_dump(minimal | {"beta": 0.2}))
    assert "did you mean training.loss.beta?" in complaint(config)


def test_an_unknown_override_names_the_override_not_the_file(config: Path) -> None:
    message = complaint(config, "method.serch.max_depth=3")
    assert message.startswith("--set method.serch.max_depth=3: method.serch is not a known key")
    assert "did you mean search?" in message
    assert str(config) not in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("iterations=0", ["iterations must be greater than or equal to 1", "not 0"]),
        ("name=[a]", ["name must be a valid string", "a list"]),
        ("name=a b", ["name must match pattern", "not 'a b'"]),
        ("run_dir.x=1", ["run_dir holds 'runs/try'"]),
        ("engines.backend=vlm", ["engines.backend must be 'vllm' or 'simulated', not 'vlm'"]),
        ("training=5", ["training must be a group of keys, not 5"]),
        ("training.loss.kind=robust", ["training.loss: kind: robust needs label_smoothing"]),
        ("method.search.settled_candidates=6", ["at most num_candidates (5)"]),
        (
            "method.search={strategy: sampled, settled_candidates: 2}",
            ["settled_candidates (2) has no effect with strategy: sampled"],
        ),
        ("engines.scorer={kind: x}", ["engines.scorer must", "rollout_value"]),
        (
            "engines.scorer={kind: rollout_value, num_completion: 2}",
            ["engines.scorer.num_completion is", "did you mean num_completions?"],
        ),
        (
            "engines.small={path: a, dtype: f64}",
            ["engines.small.dtype must be 'bfloat16'"],
        ),
        ("engines.small={pth: a}", ["engines.small.pth is", "did you mean path?", "(and 1 more)"]),
        ("name.x=1", ["name holds 'try'", "set name as a whole"]),
        ("=1", ["expected KEY=VALUE"]),
        ("iterations", ["expected KEY=VALUE"]),
        ("name={", ["not valid YAML"]),
        ("name=2024-13-01", ["not valid YAML"]),
        ("training.learning_rate=.nan", ["training.learning_rate must be a finite number"]),
    ],
)
def test_a_bad_value_gives_one_sentence(config: Path, override: str, parts: list[str]) -> None:
    message = complaint(config, override)
    assert override in message
    for part in parts:
        assert part in message


def test_a_contradiction_between_groups_names_both(config: Path) -> None:
    message = complaint(config, "evaluation.max_tokens=99999")
    assert "evaluation.max_tokens (99999) leaves no room" in message
    assert "engines.policy.max_model_len" in message


def test_a_schedule_without_effect_is_refused(config: Path) -> None:
    assert "set iterations to 2 or more" in complaint(config, "schedule=overlapped")
    two = ("schedule=overlapped", "iterations=2")
    assert load_config(config, two).schedule == "overlapped"
    shaped = "{shape: classifier, pool: {kv_cache_gib: 1}, training: {batch_size: 16}}"
    trained = f"engines.scorer={{kind: rollout_value, trained: {shaped}}}"
    assert "engines.scorer.trained has no effect" in complaint(config, *two, trained)
    assert "must be a whole number" in complaint(config, *two, "trainer.cpus_per_worker=0.5")
    grows = ("engines.policy_pool.gpus=1", "engines.policy_pool.replicas={min: 1, max: 2}")
    assert "the policy pool would grow" in complaint(config, *two, *grows)


def test_missing_keys_are_named_and_counted(config: Path, minimal: dict[str, Any]) -> None:
    del minimal["engines"], minimal["run_dir"]
    config.write_text(yaml.safe_dump(minimal))
    message = complaint(config)
    assert "run_dir is missing; add it" in message
    assert "(and 1 more)" in message


def test_a_broken_file_names_line_and_column(config: Path) -> None:
    config.write_text("name: x\nengines: [1, 2\nseed: 3\n")
    assert f"{config}, line 3, column" in complaint(config)


def test_a_key_that_appears_twice_is_refused(config: Path) -> None:
    config.write_text("name: x\nseed: 1\nseed: 2\n")
    assert "line 3, column 1: key 'seed' appears twice" in complaint(config)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_that_is_no_mapping_is_refused(config: Path, text: str) -> None:
    config.write_text(text)
    assert "must hold a mapping of keys to values, but it holds" in complaint(config)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "does not exist" in complaint(tmp_path / "none.yaml")
    assert "cannot be read" in complaint(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: caf\xe9".encode("latin-1"))
    assert "not UTF-8" in complaint(latin)


def test_yaml_cannot_build_objects(config: Path) -> None:
    config.write_text("name: !!python/object/apply:os.getcwd []\n")
    assert "line 1" in complaint(config)
