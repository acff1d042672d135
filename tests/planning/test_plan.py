import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sphere_ray.config import load_config
from sphere_ray.config.placement import NodeResources
from sphere_ray.config.run import RunSettings
from sphere_ray.errors import ConfigError
from sphere_ray.planning.habits import assumed
from sphere_ray.planning.hardware import gpu_of_node, parse_nodes
from sphere_ray.planning.plan import Question, RunPlan, make_plan
from sphere_ray.planning.report import lines
from sphere_ray.planning.timing import Record, key

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def config(name: str, *overrides: str) -> RunSettings:
    return load_config(CONFIGS / f"{name}.yaml", list(overrides))


def plan(settings: RunSettings, on: str = "8x80GB", **more: Any) -> RunPlan:
    return make_plan(Question(settings=settings, nodes=parse_nodes(on), **more))


def seconds(found: RunPlan) -> dict[str, float]:
    return {each.phase.place: each.work_s for each in found.phases}


def record(settings: RunSettings, **changes: Any) -> Record:
    """A run that took its own time: an hour for everything, 2,000 tokens and 60 chains."""
    named = ("evaluation/base", "test/base", "rollouts", "reference", "policy", "reward", "test/")
    return replace(
        Record(
            name="earlier",
            settings=settings,
            habits=assumed(settings).counted("earlier", pairs=0.5),
            work_s=dict.fromkeys((*named, "evaluation/trained"), 3600.0),
            start_s={"rollouts": 7.0},
            tokens=2000,
            chains=60,
        ),
        **changes,
    )


def test_the_shipped_7b_fits_on_8_gpus_of_80_gb() -> None:
    found = plan(config("qwen2.5-7b"))
    text = "\n".join(lines(found))
    assert "7,615,616,512 parameters x 2 bytes" in text
    assert "2 x 28 layers x 4 heads x 128 x 2 bytes = 57,344" in text
    assert found.placement is not None
    assert len(found.placement.engines) == 8
    assert found.training.total < 80e9
    # 18 bytes a parameter on 8 GPUs: weights 2, gradients 4, masters and Adam 12.
    assert found.training.least == pytest.approx(7_615_616_512 * 18 / 8)


def test_of_what_does_not_fit_only_the_memory_is_planned() -> None:
    found = plan(config("qwen2.5-7b"), "4x80GB")
    assert found.placement is None
    assert found.refusal is not None
    text = "\n".join(lines(found))
    assert "15.2" in text
    assert "Work" not in text


def test_hours_and_cost_are_sums() -> None:
    found = plan(config("qwen2.5-7b"), price=2.5)
    assert found.gpu_hours == pytest.approx(8 * sum(p.seconds for p in found.phases) / 3600)
    assert found.cost == pytest.approx(2.5 * found.gpu_hours)
    done = frozenset({"iter-000/rollouts", "evaluation/base"})
    rest = plan(config("qwen2.5-7b"), reused=done)
    assert rest.seconds == pytest.approx(
        sum(p.seconds for p in found.phases if p.phase.place not in done)
    )


def test_an_overlapped_run_takes_the_longer_side_of_every_turn() -> None:
    two = ("iterations=2", "evaluation.num_samples=0")
    one_by_one = plan(config("qwen2.5-7b", *two), "16x80GB")
    found = plan(config("qwen2.5-7b", *two, "schedule=overlapped"), "16x80GB")
    assert found.placement is not None
    took = {each.phase.place: each.seconds for each in found.phases}
    first, last = "iter-000/", "iter-001/"
    lessons = [
        sum(took[f"{at}{name}"] for name in ("reference", "policy", "evaluation/trained"))
        for at in (first, last)
    ]
    base = took["evaluation/base"] + took["test/base"]
    rollouts = [took[f"{at}rollouts"] for at in (first, last)]
    sides = [max(base, rollouts[0]), max(lessons[0], rollouts[1]), lessons[1]]
    assert found.seconds == pytest.approx(sum(sides) + took["test/iter-001"])
    assert found.seconds < one_by_one.seconds
    text = "\n".join(lines(found))
    assert "evaluation 0" in text
    assert "beside the rollouts" in text


def test_ten_million_chains_on_64_gpus_have_a_number() -> None:
    more = ("policy_pool.replicas=32", "small_pool.replicas=16", "scorer.pool.replicas=16")
    overrides = [f"engines.{each}" for each in more]
    found = plan(config("qwen2.5-7b", *overrides), "8*8xH100", chains=10_000_000)
    chains = sum(p.phase.chains for p in found.phases if p.phase.kind == "rollouts")
    assert chains == pytest.approx(10_000_000, rel=1e-5)
    assert math.isfinite(found.gpu_hours)
    assert found.gpu_hours > 0
    text = "\n".join(lines(found))
    assert "8 nodes of 8 GPUs (H100)" in text
    assert "no run was given (--like)" in text


def test_benchmarks_are_asked_of_the_base_and_the_final_model() -> None:
    settings = config("qwen2.5-7b")
    asked = config("qwen2.5-7b", "evaluation.num_samples=4")
    found = plan(settings, benchmarks={"gsm8k": (asked, 1319)})
    sets = [p.phase for p in found.phases if p.phase.place.startswith("benchmarks/")]
    assert [each.place for each in sets] == ["benchmarks/gsm8k/base", "benchmarks/gsm8k/iter-000"]
    assert [each.chains for each in sets] == [5 * 1319] * 2


def test_unused_gpus_are_said_with_the_settings_that_use_them() -> None:
    text = "\n".join(lines(plan(config("qwen2.5-7b"), "8*8x80GB")))
    found = re.search(r"to use them: (.+)", text)
    assert found is not None
    used = [each.removeprefix("--set ") for each in re.findall(r"--set \S+", found[1])]
    wide = plan(config("qwen2.5-7b", *used), "8*8x80GB")
    assert wide.placement is not None
    assert "have no engine" not in "\n".join(lines(wide))


def test_a_run_tells_its_own_seconds_again() -> None:
    settings = config("qwen2.5-1.5b")
    found = plan(settings, record=record(settings))
    assert all(value == pytest.approx(3600) for value in seconds(found).values())
    starts = {key(p.phase.place): p.start_s for p in found.phases}
    assert starts["rollouts"] == 7.0


def test_a_run_is_scaled_by_work_and_by_engines() -> None:
    settings = config("qwen2.5-7b")
    earlier = record(settings)
    larger = plan(config("qwen2.5-7b", "problems.train.limit=60000"), record=earlier)
    assert seconds(larger)["iter-000/rollouts"] == pytest.approx(3 * 3600)
    assert seconds(larger)["iter-000/policy"] == pytest.approx(3 * 3600)
    twice = ("engines.policy_pool.replicas=8", "engines.small_pool.replicas=4")
    wide = config("qwen2.5-7b", *twice, "engines.scorer.pool.replicas=4", "trainer.workers=16")
    wider = plan(wide, "16x80GB", record=earlier)
    assert seconds(wider)["iter-000/rollouts"] == pytest.approx(1800, rel=0.05)
    assert seconds(wider)["iter-000/policy"] == pytest.approx(1800)


def test_a_run_knows_how_many_problems_a_source_has() -> None:
    whole = config("qwen2.5-7b", "problems.train.limit=0")
    earlier = record(config("qwen2.5-7b", "problems.train.limit=700"))
    rollouts = [p for p in plan(whole, record=earlier).phases if p.phase.kind == "rollouts"]
    assert rollouts[0].phase.rows == 700


def test_times_of_cpus_are_not_taken_for_gpus() -> None:
    settings = config("qwen2.5-7b")
    found = plan(settings, record=record(config("laptop")))
    assert seconds(found) == pytest.approx(
        seconds(plan(settings, record=record(config("laptop"), work_s={})))
    )
    assert "its times are not taken" in "\n".join(lines(found))


@pytest.mark.parametrize("name", ["laptop", "qwen2.5-1.5b", "qwen2.5-7b", "laptop-trained-prm"])
def test_every_shipped_configuration_is_planned_offline(name: str) -> None:
    settings = config(name)
    on_cpus = settings.engines.policy_pool.gpus == 0
    assert plan(settings, "4cpu" if on_cpus else "8x80GB").refusal is None


def test_simulated_engines_and_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no models to plan"):
        plan(config("laptop", "engines.backend=simulated"), "4cpu")
    with pytest.raises(ConfigError, match=r"--set problems\.train\.limit=NUMBER"):
        plan(config("qwen2.5-7b", "problems.train.limit=0"))


@pytest.mark.parametrize(
    "text", ["", "8", "8x", "8x9XX", "x80GB", "0*8x80GB", "8x80GB,", "8 x 80GB"]
)
def test_nodes_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_nodes(text)


@pytest.mark.parametrize(
    ("kind", "size", "taken"),
    [
        ("H100", None, "H100"),
        ("A100-40G", 40e9, "A100-40GB"),
        ("T4", None, "A100"),
        ("", 23e9, "L4"),
    ],
)
def test_a_cluster_names_its_gpus_as_it_likes(kind: str, size: float | None, taken: str) -> None:
    node = NodeResources(cpus=1, gpus=1, gpu=kind, gpu_bytes=size)
    assert gpu_of_node(node).name == taken


def test_nodes_are_read() -> None:
    nodes = parse_nodes("2*8xH100/96cpu, 1x24GB,4*16cpu")
    assert [(n.gpus, n.cpus, n.gpu) for n in nodes] == [
        (8, 96, "H100"),
        (8, 96, "H100"),
        (1, 8, "24GB"),
        *[(0, 16, "")] * 4,
    ]
    assert [n.gpu_bytes for n in nodes[2:4]] == [24e9, None]
    assert len({n.name for n in nodes}) == 7
