"""Answers graded a second and core, against bare math-verify on the same answers and golds.

Each gold is paired with a right and a wrong answer, stated as a policy states it. Prints
`grading_numbers` (GSM8K and SVAMP) and `grading_latex` (golds of competitions), and where the two
disagree.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from math_verify import parse, verify

from sphere_ray.config.grading import GradingSettings
from sphere_ray.grading import GraderPool, extract_gold
from sphere_ray.records import Verdict
from tests.benchmarks.report import emit, rounded

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Item:
    """A response and the gold it is graded against."""

    response: str
    gold: str


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def numbers() -> Iterator[Item]:
    """Worked solutions as written, and with another problem's result at the end."""
    found = rows(DATA / "gsm8k" / "test_660.jsonl") + rows(DATA / "svamp_500.jsonl")
    golds = [extract_gold(row["answer"]) for row in found]
    for place, (row, gold) in enumerate(zip(found, golds, strict=True)):
        told = row["answer"].split("####")[0].strip()
        for answer in (gold, golds[place - 1]):
            yield Item(f"{told}\n#### {answer}", gold)


def latex() -> Iterator[Item]:
    """A boxed answer: the gold, and another problem's."""
    golds = [str(row["answer"]) for row in rows(DATA / "golds.jsonl")]
    for place, gold in enumerate(golds):
        for answer in (gold, golds[place - 1]):
            bare = answer.strip().strip("$")
            yield Item(f"Therefore the result is $\\boxed{{{bare}}}$.", gold)


def bare(item: Item) -> bool:
    """Math-verify as its README has it."""
    gold = item.gold if "$" in item.gold else f"${item.gold}$"
    return bool(verify(parse(gold), parse(item.response)))


def core_seconds() -> float:
    """CPU time of this process and of the workers below it."""
    me = psutil.Process()
    spent = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(times.user + times.system for times in spent)


def settle() -> None:
    """Wait until the spare worker is up: its start is no cost of an answer."""
    spent, before = core_seconds(), -1.0
    while spent - before > 0.02:
        time.sleep(2)
        spent, before = core_seconds(), spent


def timed(
    grade: Callable[[Item], bool], items: Sequence[Item], passes: int
) -> tuple[float, list[bool]]:
    """Core-seconds of a pass over the items, mean of a few, and what came out."""
    found, began = list[bool](), core_seconds()
    for number in range(passes):
        found = [grade(Item(f"Try {number}. {item.response}", item.gold)) for item in items]
    return (core_seconds() - began) / passes, found


def compare(key: str, items: Sequence[Item], passes: int) -> None:
    """Measure both, one answer after the other, and print."""
    pool = GraderPool(GradingSettings(workers=1))

    def own(item: Item) -> bool:
        return pool.grade_blocking(item.response, item.gold).verdict is Verdict.CORRECT

    for grade in (bare, own):
        grade(Item(r"\boxed{\sqrt{8}}", r"2\sqrt{2}"))  # patterns are compiled, the worker is up
    settle()

    theirs_s, theirs = timed(bare, items, passes)
    ours_s, ours = timed(own, items, passes)
    pool.close()
    differing = [
        {"response": item.response[-120:], "gold": item.gold, "ours": our, "math_verify": their}
        for item, our, their in zip(items, ours, theirs, strict=True)
        if our != their
    ]
    emit(
        key,
        rounded(theirs_s / ours_s),
        answers=len(items),
        ours_per_core_s=rounded(len(items) / ours_s),
        math_verify_per_core_s=rounded(len(items) / theirs_s),
        differing=differing,
    )


def main() -> None:
    """Print both lines."""
    logging.disable(logging.CRITICAL)
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not here; these benchmarks need its problems")
    compare("grading_numbers", list(numbers()), passes=5)
    # Once: what both sides remember of an answer or a gold is what one pass repeats.
    compare("grading_latex", list(latex()), passes=1)


if __name__ == "__main__":
    main()
