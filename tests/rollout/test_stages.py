"""A stage, called on a block as Ray Data does it; and a reward source from outside the package."""

import asyncio
import pickle
import threading
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from ray import cloudpickle

from sphere_ray.config.run import RunSettings
from sphere_ray.engines.simulated import SimulatedGenerator
from sphere_ray.engines.sources import source_of
from sphere_ray.errors import ConfigError, EngineError, RequestError, RowError
from sphere_ray.grading import GraderPool
from sphere_ray.pools.roles import policy_spec, roles_of
from sphere_ray.records import ModelRef, Problem, StageName
from sphere_ray.rollout.stages import STAGES, Assignment, RowStage, rollouts_of
from sphere_ray.schema import to_table
from tests.simulated_problems import simulated_problem

POLICY = ModelRef(path="", iteration=0, fingerprint="simulated")
SHORT = "tests.rollout.short_steps:ShortSteps"
BROKEN = "tests.rollout.short_steps:Broken"


class Counts(Counter[str]):
    """The port `Progress`."""

    def add(self, **counts: int) -> None:
        self.update(counts)


class Echo(RowStage):
    """Rows are names; "slow" waits for a gate, "late" for ever, and some are errors."""

    def __init__(self, timeout_s: float = 10.0, *, last: bool = True) -> None:
        self.counts = Counts()
        rollout = SimpleNamespace(problem_timeout_s=timeout_s)
        assignment: Any = SimpleNamespace(
            settings=SimpleNamespace(rollout=rollout), progress=self.counts, start=0
        )
        super().__init__(assignment, last=last)
        self.gate, self.cancelled = threading.Event(), threading.Event()

    def read(self, table: pa.Table) -> list[str]:
        return list(table["name"].to_pylist())

    async def work(self, row: str) -> str:
        if row == "slow":
            await asyncio.to_thread(self.gate.wait)
        if row == "late":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if row == "refused":
            raise RequestError("no")
        if row == "fatal":
            raise EngineError("gone")
        return row

    def failed(self, row: str, error: RowError) -> str:
        return f"{row}: {error}"

    def write(self, rows: list[str]) -> pa.Table:
        return block(*rows)


def block(*names: str) -> pa.Table:
    return pa.table({"name": list(names)})


def names(table: pa.Table) -> list[str]:
    return sorted(table["name"].to_pylist())


def test_a_row_leaves_when_it_is_done_and_waits_for_no_other() -> None:
    stage = Echo()
    tables = stage(block("slow", "a", "b"))
    assert names(next(tables)) == ["a", "b"]
    stage.gate.set()
    assert names(next(tables)) == ["slow"]
    assert list(tables) == []
    assert stage.counts == {"problems": 3, "held/0/Echo": 0}


def test_only_the_last_stage_counts_problems() -> None:
    stage = Echo(last=False)
    assert [names(table) for table in stage(block("a", "b"))] == [["a", "b"]]
    assert "problems" not in stage.counts


def test_a_stage_counts_what_it_has_in_hand() -> None:
    stage = Echo()
    rows = iter(stage(block("slow", "a", "b")))
    assert sorted(names(next(rows))) == ["a", "b"]
    assert stage.counts["held/0/Echo"] == 1
    stage.gate.set()
    list(rows)
    assert stage.counts["held/0/Echo"] == 0


def test_a_failed_row_is_a_row_and_a_late_one_too() -> None:
    stage = Echo(timeout_s=0.05)
    rows = [name for table in stage(block("refused", "late", "a")) for name in names(table)]
    assert sorted(rows) == ["a", "late: not finished within 0.05 s", "refused: no"]
    assert stage.counts == {"errors": 2, "problems": 3, "held/0/Echo": 0}


def test_an_error_of_the_run_ends_the_block_and_cancels_its_other_rows() -> None:
    stage = Echo()
    with pytest.raises(EngineError, match="gone"):
        list(stage(block("late", "fatal")))
    assert stage.cancelled.wait(5)


def test_every_stage_has_an_operator_of_its_own_name_that_reaches_other_processes() -> None:
    for stage in StageName:
        operator = pickle.loads(cloudpickle.dumps(STAGES[stage]))
        assert operator.name is stage
        assert operator.__name__.lower() == stage.replace("_", "")


def settings(**scorer: Any) -> RunSettings:
    return RunSettings.model_validate(
        {
            "name": "t",
            "run_dir": "r",
            "problems": {s: {"source": f"file:{s}"} for s in ("train", "validation", "test")},
            "engines": {
                "backend": "simulated",
                "policy": {"path": "policy"},
                "policy_pool": {"kv_cache_gib": 1},
                "scorer": scorer,
            },
        }
    )


def searched(chosen: RunSettings, settled: Sequence[bool] = ()) -> list[Any]:
    """The rollouts of three problems through stage 1, on a simulated policy."""
    policy: Any = SimulatedGenerator(policy_spec(chosen.engines, POLICY))
    grader: Any = GraderPool()
    assignment = Assignment(
        settings=chosen,
        clients={"policy": policy},
        grader=grader,
        progress=Counts(),
        iteration=0,
    )
    problems = to_table([simulated_problem(number) for number in range(3)], Problem)
    if settled:
        problems = problems.append_column("settled", pa.array(settled))
    first = STAGES[StageName.SELF_GENERATION](assignment)
    rows = [row for table in first(problems) for row in rollouts_of(table)]
    grader.close()
    return rows


def test_a_users_reward_source_scores_the_search() -> None:
    chosen = settings(kind="python", object=SHORT, options={"limit": 200})
    assert roles_of(chosen.engines, POLICY).specs == (policy_spec(chosen.engines, POLICY),)
    rows = searched(chosen)
    assert [row.error for row in rows] == [None] * 3
    for row in rows:
        for chain in row.chains:
            for step in chain.steps:
                for candidate in step.candidates:
                    expected = max(0.0, 1 - len(candidate.text) / 200)
                    assert candidate.reward == pytest.approx(expected)


def most_candidates(rows: list[Any]) -> list[int]:
    """The most candidates of a step of each problem, in the order of the problems."""
    steps = {
        row.problem.question: [len(step.candidates) for c in row.chains for step in c.steps]
        for row in rows
    }
    return [max(steps[simulated_problem(number).question]) for number in range(3)]


def test_a_settled_problem_gets_fewer_candidates() -> None:
    chosen = settings(kind="python", object=SHORT, options={"limit": 200}).model_dump()
    chosen["method"]["search"] |= {"num_candidates": 6, "settled_candidates": 2}
    search = RunSettings.model_validate(chosen)
    counts = most_candidates(searched(search, [False, True, False]))
    assert counts[1] <= 2 < min(counts[0], counts[2])
    assert min(most_candidates(searched(search))) > 2  # in a first iteration nothing is settled


def test_its_mistakes_are_errors_of_their_rows() -> None:
    rows = searched(settings(kind="python", object=BROKEN, options={"limit": 1}))
    assert all(row.error.startswith(f"RequestError: {BROKEN} failed: KeyError") for row in rows)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("tests.rollout.no_such_module:Short", {}, "cannot be imported"),
        ("tests.rollout.short_steps:NoSuchClass", {}, "cannot be imported"),
        ("tests.rollout.short_steps:function", {}, "is no class"),
        ("tests.rollout.short_steps:Mute", {}, "is no scorer"),
        (SHORT, {}, "missing a required"),
        (SHORT, {"limit": 3, "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_object_is_one_sentence_at_the_start(
    name: str, options: dict[str, Any], said: str
) -> None:
    chosen = settings(kind="python", object=name, options=options)
    with pytest.raises(ConfigError, match=said) as raised:
        roles_of(chosen.engines, POLICY)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_policy_is_given_to_a_constructor_that_asks_for_it() -> None:
    chosen = settings(kind="python", object=SHORT, options={"limit": 3})
    around: Any = SimpleNamespace(generator="the policy", grader="the grader")
    made: Any = source_of(chosen.engines.scorer).scorer(around)
    assert made._scorer.generator == "the policy"
