"""The slow path and the life of its processes."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import GraderError
from sphere_ray.grading import GraderPool, grade, process
from sphere_ray.method.ports import Grade
from sphere_ray.records import Verdict

ALGEBRA = r"\boxed{(x+1)^2}"
ALGEBRA_GOLD = "$x^2+2x+1$"


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        (r"2\sqrt{2}", r"\sqrt{8}", Verdict.CORRECT),
        (r"\frac{\sqrt{3}}{3}", r"$\frac{1}{\sqrt 3}$", Verdict.CORRECT),
        ("2c \\pi", "2 \\pi c", Verdict.CORRECT),
        (r"20\sqrt{7} \text{ cm}", r"$20 \sqrt{7}$", Verdict.CORRECT),
        (r"2 \pm \sqrt{3}", r"2+\sqrt{3}, 2-\sqrt{3}", Verdict.CORRECT),
        ("1.414214", r"\sqrt{2}", Verdict.CORRECT),
        (r"f(x)=-x, f(x)=x", "$f(x)=x,f(x)=-x$", Verdict.CORRECT),
        (r"10^{-20} \pi", r"10^{-21} \pi", Verdict.WRONG),
        (r"10^{-20} x", r"10^{-21} x", Verdict.WRONG),
        (r"\sqrt{10^{40}+1}", "10^{20}", Verdict.WRONG),
        (r"\frac{37}{4}", r"\frac{37}{4} m", Verdict.WRONG),
        (r"2 + \sqrt{3}", r"2 \pm \sqrt{3}", Verdict.WRONG),
        (r"1, \sqrt{2}", r"(\sqrt{2}, 1)", Verdict.WRONG),
        ("[1, x)", "(1, x]", Verdict.WRONG),
        ("x", r"{\left(\frac{x", Verdict.UNGRADABLE),
    ],
)
async def test_algebra_is_compared(
    pool: GraderPool, answer: str, gold: str, verdict: Verdict
) -> None:
    assert (await pool.grade(f"\\boxed{{{answer}}}", gold)).verdict is verdict


async def test_the_grade_carries_the_normalised_answer(pool: GraderPool) -> None:
    grade_ = await pool.grade(r"The answer is $\dfrac{1}{2}$.", "0.5")
    assert (grade_.verdict, grade_.answer) == (Verdict.CORRECT, r"\frac{1}{2}")
    nothing = await pool.grade("I give up after 5 tries", "5")
    assert (nothing.verdict, nothing.answer) == (Verdict.NO_ANSWER, None)


@pytest.mark.parametrize(
    ("answer", "other", "equal"),
    [
        ("1/2", "0.5", True),
        (r"\frac{1}{2}", "0.5", True),
        ("7", "8", False),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        (r"2\sqrt{2}", r"\sqrt{3}", False),
        ("the red one", "the red one", True),
        ("x" * 2000, "y" * 2000, False),
    ],
)
async def test_two_answers_are_the_same_where_one_would_be_right_for_the_other(
    pool: GraderPool, answer: str, other: str, equal: bool
) -> None:
    assert await pool.same(answer, other) is equal
    assert await pool.same(other, answer) is equal


async def test_self_test_passes_and_needs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MEMORY_MIB", 512)
    pool = GraderPool(GradingSettings(workers=1))
    await pool.self_test()
    pool.close()


async def test_self_test_reports_a_grader_that_answers_wrongly() -> None:
    class Agreeable(GraderPool):
        async def grade(self, response: str, gold: str) -> Grade:
            return Grade(verdict=Verdict.CORRECT, answer=response + gold)

    with pytest.raises(GraderError, match="self-test"):
        await Agreeable().self_test()


async def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    pool = GraderPool()
    with pytest.raises(GraderError, match="cannot be started"):
        await pool.grade(ALGEBRA, ALGEBRA_GOLD)
    pool.close()


async def test_a_worker_that_dies_while_starting_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "math_verify.py"
    broken.write_text("raise RuntimeError('broken installation')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = GraderPool()
    with pytest.raises(GraderError, match="broken installation"):
        await pool.grade(ALGEBRA, ALGEBRA_GOLD)
    pool.close()


def test_extraction_is_linear_in_hostile_text() -> None:
    start = time.thread_time()
    for piece in ("\\boxed{", "{", "answer ", "answer is ", "**", "#### ", "answer to ", "a \n"):
        grade(piece * (200_000 // len(piece)), "5")
    grade("answer" + " " * 200_000, "5")
    assert time.thread_time() - start < 20


async def test_too_slow_is_a_timeout_and_too_large_is_no_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "MEMORY_MIB", 256)
    pool = GraderPool(GradingSettings(workers=1, cpu_limit_s=4.0))
    slow = await pool.grade(r"\boxed{9^{9^{9^{9}}}+\sqrt{2}}", r"\sqrt{2}")
    assert slow.verdict in {Verdict.TIMEOUT, Verdict.UNGRADABLE}
    assert (await pool.grade(ALGEBRA, ALGEBRA_GOLD)).verdict is Verdict.CORRECT
    pool.close()


async def test_many_calls_share_few_workers_and_workers_are_recycled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "RECYCLE_AFTER", 4)
    pool = GraderPool(GradingSettings(workers=2))
    before = _children()
    golds = [f"x^2+{k}x+1" for k in range(12)]
    jobs = [pool.grade(f"\\boxed{{1+x^2+{k}x}}", gold) for k, gold in enumerate(golds)]
    assert {grade.verdict for grade in await asyncio.gather(*jobs)} == {Verdict.CORRECT}
    assert len(_children() - before) <= 4  # two of them are spares
    pool.close()
    assert _children() <= before


async def test_a_killed_idle_worker_is_replaced_without_a_false_verdict() -> None:
    pool = GraderPool(GradingSettings(workers=1))
    before = _children()
    await pool.grade(ALGEBRA, ALGEBRA_GOLD)
    for worker in _children() - before:
        os.kill(worker, signal.SIGKILL)
    assert (await pool.grade(ALGEBRA, ALGEBRA_GOLD)).verdict is Verdict.CORRECT
    pool.close()


async def test_a_closed_pool_refuses_work() -> None:
    pool = GraderPool()
    pool.close()
    pool.close()
    with pytest.raises(GraderError, match="closed"):
        await pool.grade(ALGEBRA, ALGEBRA_GOLD)


def test_it_works_beside_an_event_loop_that_is_not_in_the_main_thread(pool: GraderPool) -> None:
    verdicts: list[Verdict] = []

    def run() -> None:
        verdicts.append(asyncio.run(pool.grade(ALGEBRA, ALGEBRA_GOLD)).verdict)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert verdicts == [Verdict.CORRECT]


@pytest.mark.parametrize("busy", [False, True])
def test_no_worker_outlives_a_killed_parent(busy: bool) -> None:
    script = f"""
        import threading, psutil
        from sphere_ray.grading import GraderPool
        from sphere_ray.config.grading import GradingSettings
        pool = GraderPool(GradingSettings(workers=1, cpu_limit_s=1.0))
        pool.grade_blocking({ALGEBRA!r}, {ALGEBRA_GOLD!r})
        print(*(child.pid for child in psutil.Process().children()), flush=True)
        if {busy}:
            pool.grade_blocking(r"\\boxed{{9^{{9^{{9^{{9}}}}}}+x}}", "x")
        threading.Event().wait()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    assert psutil.wait_procs(workers, timeout=600)[1] == []


def test_the_fast_path_imports_no_computer_algebra() -> None:
    script = """
        import sys
        from sphere_ray.grading import grade
        assert grade("#### 1,234", "1234") == "correct"
        assert not {"sympy", "math_verify", "torch", "ray"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}
