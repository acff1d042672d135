"""Which settings decide which steps: what a change makes again, and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sphere_ray.config import RunSettings, load_config
from sphere_ray.records import ModelRef
from sphere_ray.runs.step import Made, Step
from sphere_ray.runs.steps.evaluation import EvaluationStep
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import PolicyStep
from sphere_ray.runs.steps.problems import ProblemsStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.rollouts import RolloutsStep

MODEL = ModelRef(path="", iteration=0, fingerprint="m")
MADE = Made(name="made", path="", finished=None)
MINIMAL: dict[str, Any] = {
    "name": "try",
    "run_dir": "unused",
    "problems": {s: {"source": f"file:{s}"} for s in ("train", "validation", "test")},
    "engines": {"policy": {"path": "tiny:llama"}, "policy_pool": {"kv_cache_gib": 1}},
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., RunSettings]:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return lambda *overrides: load_config(path, overrides)


def steps(settings: RunSettings) -> dict[str, Step]:
    common: Any = {"settings": settings}
    rate = settings.training.learning_rate
    return {
        "problems": ProblemsStep(policy=MODEL, **common),
        "rollouts": RolloutsStep(problems=MADE, policy=MODEL, **common),
        "pairs": PairsStep(rollouts=MADE, **common),
        "reference": ReferenceStep(pairs=MADE, model=MODEL, **common),
        "policy": PolicyStep(reference=MADE, policy=MODEL, learning_rate=rate, **common),
        "evaluation": EvaluationStep(problems=MADE, split="test", model=MODEL, **common),
    }


def changed(before: RunSettings, after: RunSettings) -> set[str]:
    one, two = steps(before), steps(after)
    return {name for name in one if one[name].identity() != two[name].identity()}


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "run_dir=/elsewhere",
        "iterations=3",
        "engines.policy_pool.replicas=4",
        "engines.policy_pool.max_num_seqs=8",
        "engines.policy.path=/models/tiny:llama",  # its fingerprint is an input
        "rollout.batch_size=9",
        "trainer={workers: 2, zero_stage: 3}",
        "training.micro_batch_size=4",
        "training.checkpoint_every=2",
        "training.min_pairs=2",
        "ray.address=local",
        "grading.workers=8",
        "grading.timeout_s=1",
        "problems.max_rejected_share=0.9",
        "promotion.tolerance=0.5",
        "promotion.patience=9",
    ],
)
def test_placement_and_limits_make_nothing_again(load: Any, override: str) -> None:
    assert changed(load(), load(override)) == set()


def test_limits_of_a_judge_make_nothing_again(load: Any) -> None:
    judge = "kind: judge, base_url: 'http://localhost/v1', model: m"
    limits = "max_concurrent: 4, timeout_s: 9, max_retries: 1, cache_dir: x, api_key_env: KEY"
    before, after = (
        load(f"engines.scorer={{{judge}}}"),
        load(f"engines.scorer={{{judge}, {limits}}}"),
    )
    assert changed(before, after) == set()


def test_the_kernel_of_attention_makes_nothing_again(load: Any) -> None:
    on_gpu = ("trainer.use_gpu=true", "training.precision=bf16")
    flash = load(*on_gpu, "training.attention=flash_attention_2")
    assert changed(load(*on_gpu), flash) == set()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=7", {"rollouts", "policy", "evaluation"}),
        ("problems.train.limit=7", {"problems"}),
        ("method.search.max_depth=7", {"rollouts"}),
        ("method.pairs.max_per_problem=7", {"pairs"}),
        ("method.prompts.system=Think.", {"problems", "rollouts", "evaluation"}),
        ("engines.policy.dtype=float16", {"rollouts", "evaluation"}),
        ("engines.policy_pool.deterministic=true", {"rollouts", "evaluation"}),
        ("engines.scorer={kind: rollout_value, num_completions: 9}", {"rollouts"}),
        ("grading.verifier=mine:verify", {"rollouts", "evaluation"}),
        ("training.learning_rate=7", {"policy"}),
        ("training.loss.beta=0.2", {"policy"}),
        ("training.max_length=700", {"reference", "policy"}),
        ("evaluation.num_samples=7", {"evaluation"}),
    ],
)
def test_what_decides_results_makes_the_steps_again_that_read_it(
    load: Any, override: str, expected: set[str]
) -> None:
    assert changed(load(), load(override)) == expected


def test_a_trained_reward_model_changes_rollouts_only_where_it_scores(load: Any) -> None:
    trained = "pool: {kv_cache_gib: 1}, shape: classifier"
    before, after = (
        load(f"engines.scorer={{kind: rollout_value, trained: {{{trained}{more}}}}}")
        for more in ("", ", max_model_len: 4096")
    )
    assert changed(before, after) == set()
    scored = [
        RolloutsStep(problems=MADE, policy=MODEL, trained=MODEL, settings=s).identity()
        for s in (before, after)
    ]
    assert scored[0] != scored[1]
