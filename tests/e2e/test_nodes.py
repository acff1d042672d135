"""Nodes that leave and join while a run works: every problem once, and the same rows and pairs."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from driving import Driver
from raylets import POOL, committed_rows, raylets, simulated, write_problems
from recompute import rows

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

PROBLEMS = 2000
NOTICED_S = 120
"""Within this time the work of a lost node goes on elsewhere."""


def finished(driver: Driver) -> str:
    """Wait for the end of a run; returns what it wrote."""
    assert driver.process.wait(1500) == 0, driver.log()
    return driver.log()


def by_problem(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    name = "problem_id" if kind == "rollouts" else "pair_id"
    found = rows(folder / "iter-000" / kind)
    assert len({row[name] for row in found}) == len(found)
    return {row[name]: row for row in found}


def test_a_node_is_lost_and_one_joins_and_the_rows_are_those_of_an_undisturbed_run(
    tmp_path: Path,
) -> None:
    """Ten engines on twelve GPUs: eight are left, then twelve, of which the pools may use all."""
    problems = write_problems(tmp_path, PROBLEMS)
    growing = {"policy_pool": POOL | {"replicas": {"min": 4, "max": 6}}}
    with raylets(3) as (cluster, nodes):
        at = {"address": cluster.address}
        calm = simulated(tmp_path, "calm", problems, ray=at)
        finished(Driver(calm, tmp_path / "calm.log"))
        rough = simulated(tmp_path, "rough", problems, ray=at, engines=growing)
        driver = Driver(rough, tmp_path / "rough.log")
        parts = tmp_path / "rough" / "iter-000" / "rollouts"
        try:
            driver.until(lambda: committed_rows(parts) > PROBLEMS / 5)
            cluster.kill_node(nodes[0])
            before, killed = committed_rows(parts), time.monotonic()
            driver.until(lambda: committed_rows(parts) > before + 100)
            assert time.monotonic() < killed + NOTICED_S
            cluster.add_node()
            log = finished(driver)
        finally:
            driver.end()
    assert log.count("left with") == 1
    assert "x engine of policy-simulate" in log
    assert "joined with 2 CPUs and 4 GPUs" in log
    for kind in ("rollouts", "pairs"):
        assert by_problem(tmp_path / "rough", kind) == by_problem(tmp_path / "calm", kind)
    events = (tmp_path / "rough" / "events.jsonl").read_text().splitlines()
    assert any("left with" in json.loads(line).get("text", "") for line in events)


def test_a_run_without_engines_says_what_it_waits_for_and_goes_on_with_a_new_node(
    tmp_path: Path,
) -> None:
    problems = write_problems(tmp_path, 300)
    engines = {"policy_pool": POOL, "small_pool": POOL}
    with raylets(1) as (cluster, (only,)):
        at = {"address": cluster.address}
        command = simulated(tmp_path, "alone", problems, ray=at, engines=engines)
        driver = Driver(command, tmp_path / "alone.log")
        parts = tmp_path / "alone" / "iter-000" / "rollouts"
        try:
            driver.until(lambda: committed_rows(parts) > 50)
            cluster.kill_node(only)
            driver.until(lambda: "no progress for 1:0" in driver.log())
            cluster.add_node()
            log = finished(driver)
        finally:
            driver.end()
    (said,) = (line for line in log.splitlines() if "no progress for 1:0" in line)
    for pool in ("policy-simulate", "reward", "small"):
        assert f"0 of 1 engines of {pool} serve, 1 not placed (1 GPUs each, 0 are free)" in said
    assert len(by_problem(tmp_path / "alone", "rollouts")) == 300


@pytest.mark.parametrize(
    ("policy", "small"),
    [
        ({"tensor_parallel": 2, "replicas": 2}, {"tensor_parallel": 4}),
        ({"gpus": 0.5, "kv_cache_gib": 1, "replicas": 8}, {"tensor_parallel": 4}),
    ],
)
def test_every_gpu_is_used_and_no_engine_is_split(
    tmp_path: Path, policy: dict[str, Any], small: dict[str, Any]
) -> None:
    """Two pools of the policy's kind (its reward model is simulated too) take eight GPUs."""
    engines = {"policy_pool": POOL | policy, "small_pool": POOL | small}
    problems = write_problems(tmp_path, 40)
    with raylets(3) as (cluster, _):
        at = {"address": cluster.address}
        log = finished(
            Driver(
                simulated(tmp_path, "placed", problems, ray=at, engines=engines),
                tmp_path / "placed.log",
            )
        )
    assert "not placed" not in log
    summary = json.loads((tmp_path / "placed" / "summary.json").read_text())
    pools = summary["iterations"][0]["rollout"]["pools"]
    found = {name.partition("-")[0]: pool["replicas"] for name, pool in pools.items()}
    assert found == {"policy": policy["replicas"], "reward": policy["replicas"], "small": 1}
