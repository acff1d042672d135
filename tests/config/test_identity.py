from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sphere_ray.config import RunSettings, differences, identity, load_config, phase_identity

PHASES = ["problems", "rollouts", "pairs", "reference", "policy", "evaluation", "test"]


@pytest.fixture
def load(tmp_path: Path, minimal: dict[str, Any]) -> Callable[..., RunSettings]:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(minimal))
    return lambda *overrides: load_config(path, overrides)


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "run_dir=/elsewhere",
        "iterations=3",
        "engines.policy_pool.replicas=4",
        "engines.policy_pool.max_num_seqs=8",
        "engines.policy.path=/models/tiny:llama",
        "rollout.batch_size=9",
        "trainer={workers: 2, zero_stage: 3}",
        "training.micro_batch_size=4",
        "training.checkpoint_every=2",
        "ray.address=local",
        "grading.workers=8",
        "grading.timeout_s=1",
        "problems.max_rejected_share=0.9",
    ],
)
def test_placement_changes_no_identity(load: Callable[..., RunSettings], override: str) -> None:
    assert identity(load(override)) == identity(load())


def test_the_kernel_of_attention_changes_no_identity(load: Callable[..., RunSettings]) -> None:
    on_gpu = ("trainer.use_gpu=true", "training.precision=bf16")
    flash = load(*on_gpu, "training.attention=flash_attention_2")
    assert identity(flash) == identity(load(*on_gpu))


@pytest.mark.parametrize(
    ("override", "phases"),
    [
        ("seed=7", {"rollouts", "pairs", "policy", "evaluation", "test"}),
        ("problems.train.limit=7", {"problems"}),
        ("method.search.max_depth=7", {"rollouts"}),
        ("method.pairs.max_per_problem=7", {"rollouts", "pairs"}),
        ("method.prompts.system=Think.", {"rollouts", "evaluation", "test"}),
        ("engines.policy.path=other", {"rollouts", "evaluation", "test"}),
        ("engines.policy.dtype=float16", {"rollouts", "evaluation", "test"}),
        ("engines.policy_pool.deterministic=true", {"rollouts", "evaluation", "test"}),
        ("engines.scorer={kind: rollout_value, num_completions: 9}", {"rollouts"}),
        ("grading.verifier=a:b", {"rollouts", "evaluation", "test"}),
        ("training.learning_rate=7", {"policy"}),
        ("training.max_length=700", {"reference", "policy"}),
        ("evaluation.num_samples=7", {"evaluation", "test"}),
        ("promotion.tolerance=0.5", set()),
    ],
)
def test_what_decides_results_is_identity_of_the_phases_that_read_it(
    load: Callable[..., RunSettings], override: str, phases: set[str]
) -> None:
    before, after = load(), load(override)
    assert identity(before) != identity(after)
    changed = {p for p in PHASES if phase_identity(before, p) != phase_identity(after, p)}
    assert changed == phases


def test_differences_name_both_values(load: Callable[..., RunSettings]) -> None:
    there = identity(load("training.learning_rate=3e-5"))
    here = identity(load("training.learning_rate=1e-5"))
    assert differences(there, here) == ["training.learning_rate: 3e-05 there, 1e-05 here"]
    assert differences(here, here) == []


def test_differences_show_keys_of_one_side_only() -> None:
    assert differences({"a": 1}, {"b": None}) == [
        "b: absent there, None here",
        "a: 1 there, absent here",
    ]
