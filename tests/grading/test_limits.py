"""What a worker's limits and its end say about an answer: CPU time decides, nothing else does."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import GraderError
from sphere_ray.grading import GraderPool, process
from sphere_ray.grading import pool as pool_module
from sphere_ray.records import Verdict

CPU_LIMIT_S = 1.0

Start = Callable[[], GraderPool]


@pytest.fixture
def start() -> Iterator[Start]:
    pools: list[GraderPool] = []

    def start() -> GraderPool:
        verifier = "tests.grading.verifiers:greedy"
        chosen = GradingSettings(verifier=verifier, workers=1, cpu_limit_s=CPU_LIMIT_S)
        pools.append(GraderPool(chosen))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def verdict(pool: GraderPool, response: str, gold: str = "") -> Verdict:
    return pool.grade_blocking(response, gold).verdict


@contextmanager
def one_core_for_all(burners: int) -> Iterator[None]:
    """What is started inside shares one core with processes that never rest."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(burners)]
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        for burner in busy:
            burner.kill()
            burner.wait()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_more_cpu_time_than_the_limit_is_a_timeout_every_time(start: Start) -> None:
    pool = start()
    burning = [verdict(pool, f"burn {seconds}") for seconds in (0.5, 1.5, 0.5, 1.5, 0.5, 0.5)]
    expected = {0.5: Verdict.CORRECT, 1.5: Verdict.TIMEOUT}
    assert burning == [expected[seconds] for seconds in (0.5, 1.5, 0.5, 1.5, 0.5, 0.5)]


def test_cpu_time_is_counted_on_a_busy_machine_and_waiting_is_not(start: Start) -> None:
    with one_core_for_all(burners=5):
        pool = start()
        assert verdict(pool, "burn 0.6") is Verdict.CORRECT  # 3.6 s of wall clock
        assert verdict(pool, "burn 1.4") is Verdict.TIMEOUT


def test_easy_answers_get_their_verdicts_on_a_busy_machine() -> None:
    with one_core_for_all(burners=5):
        pool = GraderPool(GradingSettings(workers=2, cpu_limit_s=CPU_LIMIT_S))
        for number in range(20):
            right = pool.grade_blocking(
                rf"\boxed{{(x+{number})(x-1)}}", f"x^2+{number - 1}x-{number}"
            )
            wrong = pool.grade_blocking(rf"\boxed{{\sqrt{{{number}}}+\pi}}", r"\pi")
            assert right.verdict is Verdict.CORRECT
            assert wrong.verdict is (Verdict.WRONG if number else Verdict.CORRECT)
        pool.close()


def test_a_call_that_only_waits_is_no_timeout(start: Start) -> None:
    assert verdict(start(), f"sleep {2 * CPU_LIMIT_S}") is Verdict.CORRECT


def test_a_call_that_waits_for_ever_is_an_error_and_the_next_answer_is_graded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "WALL_PER_CPU", 1.0)
    pool = start()
    with pytest.raises(GraderError, match=r"3 grading workers in a row .* did not answer for 1 s"):
        verdict(pool, "sleep 1000")
    assert verdict(pool, "fine") is Verdict.CORRECT


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM", "SIGUSR1", "SIGSTOP"])
def test_an_answer_whose_worker_is_lost_is_graded_by_another(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str
) -> None:
    monkeypatch.setattr(process, "WALL_PER_CPU", 2.0 if ending == "SIGSTOP" else 200.0)
    lost = tmp_path / "lost"
    lost.touch()
    pool = start()
    assert verdict(pool, f"die {lost} {ending}", "2") is Verdict.CORRECT
    assert len(lost.read_text()) == 2
    with pytest.raises(GraderError, match="3 grading workers in a row were lost over one answer"):
        verdict(pool, f"die {lost} {ending}", "99")
    assert len(lost.read_text()) == 5
    assert verdict(pool, "fine") is Verdict.CORRECT


def test_a_crash_of_the_worker_is_the_answers_own(start: Start, tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"
    crashed.touch()
    assert verdict(start(), f"die {crashed} SIGSEGV", "99") is Verdict.UNGRADABLE
    assert len(crashed.read_text()) == 1


def test_an_answer_that_wants_more_memory_than_there_is_is_ungradable(start: Start) -> None:
    pool = start()
    assert verdict(pool, "eat") is Verdict.UNGRADABLE
    assert verdict(pool, "fine") is Verdict.CORRECT


def test_a_worker_that_keeps_its_memory_is_replaced_before_it_lacks_room(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MEMORY_MIB", 512)
    pool = start()
    assert {verdict(pool, "hoard 100") for _ in range(20)} == {Verdict.CORRECT}


def test_a_spare_is_at_hand_when_a_worker_is_killed(start: Start, tmp_path: Path) -> None:
    pool, note, before = start(), tmp_path / "pid", children()
    verdict(pool, f"pid {note}")
    first = int(note.read_text())
    (spare,) = children() - before - {first}
    assert verdict(pool, "hang") is Verdict.TIMEOUT
    verdict(pool, f"pid {note}")
    assert int(note.read_text()) == spare
    assert len(children() - before) == 2


def test_a_spare_that_cannot_be_started_is_missed_only_when_needed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Once(process.WorkerProcess):
        started = False

        def __init__(self, settings: GradingSettings) -> None:
            if Once.started:
                raise GraderError("no more processes")
            super().__init__(settings)
            Once.started = True

    monkeypatch.setattr(pool_module, "WorkerProcess", Once)
    pool = start()
    assert verdict(pool, "fine") is Verdict.CORRECT
    assert verdict(pool, "burn 1.5") is Verdict.TIMEOUT
    with pytest.raises(GraderError, match="no more processes"):
        verdict(pool, "fine")


def test_texts_of_any_length_cost_bounded_memory(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_VERIFIED_CHARS", 1000)
    pool = start()
    assert verdict(pool, "fine " * 100) is Verdict.CORRECT
    assert verdict(pool, "fine " * 1000) is Verdict.UNGRADABLE
    assert verdict(pool, "fine", "gold" * 1000) is Verdict.UNGRADABLE


@pytest.fixture(scope="module")
def same() -> Iterator[GraderPool]:
    pool = GraderPool(GradingSettings(verifier="tests.grading.verifiers:same", workers=1))
    yield pool
    pool.close()


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_any_text_reaches_the_worker_as_it_is(same: GraderPool, left: str, right: str) -> None:
    assert verdict(same, left, left) is Verdict.CORRECT
    assert verdict(same, left, right) is (Verdict.CORRECT if left == right else Verdict.WRONG)
