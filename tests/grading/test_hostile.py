"""Thousands of hostile answers: bounded CPU time and memory, nothing executed, none correct."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sphere_ray.config.grading import GradingSettings
from sphere_ray.grading import GraderPool, process
from sphere_ray.grading import pool as pool_module
from sphere_ray.grading.process import WorkerProcess
from sphere_ray.records import Verdict
from tests.grading.hostile import KINDS, hostile_answers

CPU_LIMIT_S = 1.0
MEMORY_MIB = 512
PARENT_GROWTH_MIB = 200


class MeteredWorker(WorkerProcess):
    """Notes the CPU seconds of every call. One pool thread alone may use and reap processes."""

    spent_s: float = 0.0

    def ask(self, left: str, right: str) -> tuple[Verdict, str | None]:
        seen = psutil.Process(self._process.pid)
        before, reaped = cpu_seconds(seen), reaped_seconds()
        reply = super().ask(left, right)
        after = cpu_seconds(seen) if seen.is_running() else reaped_seconds() - reaped
        MeteredWorker.spent_s = after - before
        return reply


def cpu_seconds(seen: psutil.Process) -> float:
    times = seen.cpu_times()
    return float(times.user + times.system)


def reaped_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraderPool]:
    monkeypatch.setattr(process, "MEMORY_MIB", MEMORY_MIB)
    monkeypatch.setattr(pool_module, "WorkerProcess", MeteredWorker)
    pool = GraderPool(GradingSettings(workers=1, cpu_limit_s=CPU_LIMIT_S))
    yield pool
    pool.close()


def survives(pool: GraderPool, canary: Path, each: int) -> None:
    me = psutil.Process()
    others, grown_from = set(me.children()), me.memory_info().rss
    failures = []
    for hostile in hostile_answers(each, str(canary)):
        MeteredWorker.spent_s = 0.0
        began = time.thread_time()
        verdict = pool.grade_blocking(hostile.response, hostile.gold).verdict
        parent_s = time.thread_time() - began
        if verdict is Verdict.CORRECT or parent_s > 1 or MeteredWorker.spent_s > CPU_LIMIT_S + 1:
            failures.append((hostile, verdict, parent_s, MeteredWorker.spent_s))
        workers = set(me.children()) - others
        assert len(workers) <= 2
        assert sum(worker.memory_info().rss for worker in workers) <= 2 * MEMORY_MIB * 2**20
    assert failures == []
    assert me.memory_info().rss - grown_from < PARENT_GROWTH_MIB * 2**20
    assert not canary.exists()
    assert pool.grade_blocking(r"\boxed{(x+1)^2}", "$x^2+2x+1$").verdict is Verdict.CORRECT


def test_some_hostile_answers_of_each_kind(metered: GraderPool, tmp_path: Path) -> None:
    survives(metered, tmp_path / "canary", 4)


@pytest.mark.slow
@pytest.mark.timeout(14_400)
def test_five_thousand_hostile_answers(metered: GraderPool, tmp_path: Path) -> None:
    assert 340 * len(KINDS) > 5000
    survives(metered, tmp_path / "canary", 340)


def test_the_same_seed_gives_the_same_answers() -> None:
    first, again = (list(hostile_answers(3, "canary")) for _ in range(2))
    assert first == again
    assert len({hostile.response for hostile in first}) > 40
