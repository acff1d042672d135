"""Which settings decide which steps: what a change makes again, and what it leaves alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sphere_ray.config import RunSettings, load_config
from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.errors import ConfigError
from sphere_ray.evolution.evolve import plan
from sphere_ray.method.audit import NOTHING, Audit
from sphere_ray.pools.roles import Roles
from sphere_ray.records import ModelRef
from sphere_ray.runs.step import Made, Step
from sphere_ray.runs.steps.evaluation import EvaluationStep
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import PolicyStep
from sphere_ray.runs.steps.problems import ProblemsStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.reward_model import RewardModelStep
from sphere_ray.runs.steps.rollouts import RolloutsStep

MODEL = ModelRef(path="", iteration=0, fingerprint="m")
SPEC = EngineSpec(
    kind="simulated_generator",
    name="policy",
    path="",
    model=ModelSettings(path="m"),
    pool=PoolSettings(kv_cache_gib=1),
)
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
        "grading.cpu_limit_s=1",
        "problems.max_rejected_share=0.9",
        "promotion={max_loss: 0.5, candidates: [trained]}",
        "promotion.patience=9",
        "evaluation={benchmarks: [gsm8k], benchmark_dir: sets}",
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
    on_gpu = (
        "trainer.use_gpu=true",
        "training.precision=bf16",
        "engines.policy.dtype=bfloat16",
    )
    flash = load(*on_gpu, "training.attention=flash_attention_2")
    assert changed(load(*on_gpu), flash) == set()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=7", {"rollouts", "policy", "evaluation"}),
        ("problems.train.limit=7", {"problems"}),
        ("method.search.max_depth=7", {"rollouts"}),
        ("method.pairs.max_per_problem=7", {"pairs"}),
        ("method.pairs.max_logprob_gap=0.5", {"pairs", "reference"}),
        ("method.prompts.system=Think.", {"problems", "rollouts", "evaluation"}),
        ("engines.policy_pool.deterministic=true", {"rollouts", "evaluation"}),
        ("engines.scorer={kind: rollout_value, num_completions: 9}", {"rollouts"}),
        ("grading.verifier=mine:verify", {"rollouts", "evaluation"}),
        ("method.prompts.correction='{question} {attempt}'", {"rollouts"}),
        (
            "method.prompts.correction_examples=[{question: q, attempt: a, response: r}]",
            {"rollouts"},
        ),
        ("method.stages.correction_share=0.5", {"rollouts"}),
        ("training.learning_rate=7", {"policy"}),
        ("training.guard.max_chosen_drop=9", {"policy"}),
        ("training.reference=initial", set()),  # another table is another input
        ("training.loss.beta=0.2", {"policy"}),
        ("training.max_length=700", {"reference", "policy"}),
        ("evaluation.num_samples=7", {"evaluation"}),
    ],
)
def test_what_decides_results_makes_the_steps_again_that_read_it(
    load: Any, override: str, expected: set[str]
) -> None:
    assert changed(load(), load(override)) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float16", {"rollouts", "evaluation"}),
        ("float32", {"rollouts", "policy", "evaluation"}),  # it is written more exactly
    ],
)
def test_how_the_policy_is_served_decides_how_it_is_written(
    load: Any, dtype: str, expected: set[str]
) -> None:
    before, after = (load(f"engines.policy.dtype={each}") for each in ("bfloat16", dtype))
    assert changed(before, after) == expected


def test_a_problem_file_counts_by_its_content(load: Any, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    step = ProblemsStep(settings=load(f"problems.train.source=file:{file}?answer=a"), policy=MODEL)
    found = []
    for text in ("", "a", "b", "a"):
        if text:
            file.write_text(text)
        found.append(step.inputs())
    assert found[1] == found[3]
    assert len({str(each) for each in found}) == 3


@pytest.mark.parametrize(
    "setting",
    [
        "grading.verifier=mine_{n}:check",
        "engines.scorer={{kind: python, object: 'mine_{n}:Check'}}",
    ],
)
def test_your_own_code_counts_by_its_content(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "verifier" if "verifier" in setting else "scorer"
    file = tmp_path / f"mine_{name}.py"
    file.write_text("class Check: ...\n")
    step = steps(load(setting.format(n=name)))["rollouts"]
    monkeypatch.setattr(RolloutsStep, "roles", lambda self: Roles(policy=SPEC))
    before = step.inputs()
    assert before == step.inputs()
    file.write_text("class Check: pass\n")
    assert {key for key, value in step.inputs().items() if before[key] != value} == {name}


def test_when_a_trained_reward_model_takes_over_is_no_part_of_it(load: Any) -> None:
    def identities(more: str) -> tuple[Any, Any]:
        trained = f"pool: {{kv_cache_gib: 1}}, shape: classifier, {more}"
        found = load(f"engines.scorer={{kind: rollout_value, trained: {{{trained}}}}}")
        model = RewardModelStep(
            settings=found, trained=found.engines.scorer.trained, recorded=(), base=MODEL
        )
        rollouts = RolloutsStep(problems=MADE, policy=MODEL, trained=MODEL, settings=found)
        return model.identity(), rollouts.identity()

    first = identities("schedule: {min_auc: 0.9}")
    assert identities("schedule: {min_auc: 0.5, from_iteration: 2}") == first
    audited, longer = (
        identities("schedule: {audit_share: 0.5}"),
        identities("training: {epochs: 9}"),
    )
    assert (audited[0] == first[0], audited[1] == first[1]) == (True, False)
    assert (longer[0] == first[0], longer[1] == first[1]) == (False, True)


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


def test_candidates_of_settled_problems_count_where_problems_are_marked(load: Any) -> None:
    few, fewer = (
        load("method.search.settled_candidates=3"),
        load("method.search.settled_candidates=2"),
    )
    assert changed(few, fewer) == set()
    marked = replace(MADE, name="budget")
    one, other = (
        RolloutsStep(settings=each, problems=marked, policy=MODEL).identity()
        for each in (few, fewer)
    )
    assert one != other


def test_kept_pairs_are_inputs_of_pairs_and_reference(load: Any) -> None:
    common: Any = {"settings": load(), "kept": (replace(MADE, name="earlier"),)}
    for step in (
        PairsStep(rollouts=MADE, **common),
        ReferenceStep(pairs=MADE, model=MODEL, **common),
    ):
        assert replace(MADE, name="earlier") in step.inputs().values()


def test_an_audit_counts_by_what_was_decided(load: Any) -> None:
    decided = Audit(rejected=frozenset({"x"}))
    judged = Audit(verdicts={"p": {"t": True}})
    trained = "pool: {kv_cache_gib: 1}, shape: classifier"
    settings = load(f"engines.scorer={{kind: rollout_value, trained: {{{trained}}}}}")

    def inputs(audit: Audit) -> tuple[Any, Any]:
        pairs = PairsStep(settings=settings, rollouts=MADE, audit=audit)
        model = RewardModelStep(
            settings=settings,
            trained=settings.engines.scorer.trained,
            recorded=(),
            base=MODEL,
            audit=audit,
        )
        return pairs.inputs().get("audit"), model.inputs().get("audit")

    assert inputs(NOTHING) == (None, None)
    assert inputs(decided)[0] is not None
    assert inputs(decided)[1] is None  # labels know no pairs
    assert None not in inputs(judged)
    assert inputs(judged)[0] != inputs(decided)[0]
    # The path alone decides nothing.
    assert changed(load(), load("method.pairs.audit=somewhere/audit.jsonl")) == set()


def test_a_missing_audit_is_noticed_before_any_work(load: Any, tmp_path: Path) -> None:
    settings = load(
        f"run_dir={tmp_path / 'run'}",
        "engines.backend=simulated",
        "engines.scorer={kind: simulated}",
        f"method.pairs.audit={tmp_path / 'audit.jsonl'}",
    )
    with pytest.raises(ConfigError, match=r"method\.pairs\.audit: .*cannot be read"):
        plan(settings)
