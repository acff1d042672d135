"""Real gold answers: right against themselves in many forms, wrong against other problems'."""

import asyncio
import json
import random
import re
from pathlib import Path

import pytest

from sphere_ray.grading import GraderPool, extract_gold
from sphere_ray.grading.extract import why_no_answer
from sphere_ray.records import Verdict

pytestmark = pytest.mark.timeout(900)

FORMS = {
    "boxed": r"So we get $\boxed{%s}$.",
    "plain": "The answer is %s.",
    "dollars": "The final answer is $%s$.",
    "hashes": "A step.\n#### %s",
}
UNIT_FORMS = {
    "unit": r"\boxed{%s \text{ cm}}",
    "words": "The answer is %s apples.",
    "currency": r"The answer is \$%s.",
    "bold": "She has **%s** left.",
}
OTHERS = 10

# Golds that cannot be parsed, so that a different answer is ungradable instead of wrong.
UNGRADABLE_GOLDS = {
    "$t(0,4]$": "damaged in the source: a parameter glued to a half-open interval",
}

BUILT_IN = ["2", "-84", "17.5%", "023", r"$\frac{25}{2}$", "$(3,2)$", "$-2,0,2$", r"$20 \sqrt{7}$",
            "$k=1$", "$f(x)=x+1$", r"$\binom{2n}{n}$", "3.83e35", r"1.6} \mathrm{~cm",
            r"(-\infty,-5)", r"$2,-\log _{10} 250$"]  # fmt: skip


def key(gold: str) -> str:
    """Spelling-independent enough to tell which golds differ; not the grader's own notion."""
    text = gold.replace("$", "").replace(" ", "").replace(",", "").rstrip(".")
    text = re.sub(r"^[a-zA-Z]=", "", text)
    try:
        return str(float(text))
    except ValueError:
        return gold.replace("$", "").replace(" ", "").rstrip(".")


async def failures(
    pool: GraderPool, cases: list[tuple[str, str]], expected: Verdict
) -> list[tuple[str, str, str]]:
    grades = await asyncio.gather(*(pool.grade(response, gold) for response, gold in cases))
    return [
        (response, gold, grade.verdict)
        for (response, gold), grade in zip(cases, grades, strict=True)
        if grade.verdict is not expected
    ]


def other_golds(golds: list[str]) -> list[tuple[str, str]]:
    """Each gold against ten seeded golds of other problems that differ from it."""
    pairs = []
    for rank, gold in enumerate(golds):
        others = [other for other in golds if key(other) != key(gold)]
        chosen = random.Random(rank).sample(others, min(OTHERS, len(others)))
        pairs += [(f"\\boxed{{{other}}}", gold) for other in chosen]
    return pairs


async def check(pool: GraderPool, golds: list[str], forms: dict[str, str]) -> None:
    own = [(form % gold, gold) for gold in golds for form in forms.values()]
    assert await failures(pool, own, Verdict.CORRECT) == []
    wrong = await failures(pool, other_golds(golds), Verdict.WRONG)
    unexplained = [
        case
        for case in wrong
        if case[2] is not Verdict.UNGRADABLE
        or not any(damaged in case[0] or damaged == case[1] for damaged in UNGRADABLE_GOLDS)
    ]
    assert unexplained == []


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("2 u(t) + t", "t + u(t) + u(t)", Verdict.CORRECT),
        ("f((x-1)(x+1))", "f(x^2-1)", Verdict.CORRECT),
        ("2 u(t) + t", "u(t) + t", Verdict.WRONG),
        ("f(x) + 1", "f(x-1)", Verdict.WRONG),
        ("f(x) + f(y)", "2 f(x)", Verdict.WRONG),
    ],
)
async def test_functions_that_nobody_defines(
    pool: GraderPool, answer: str, gold: str, expected: Verdict
) -> None:
    assert (await pool.grade(f"\\boxed{{{answer}}}", f"${gold}$")).verdict is expected


async def test_a_sample_of_competition_golds(pool: GraderPool) -> None:
    await check(pool, [extract_gold(gold) for gold in BUILT_IN], FORMS)


async def test_every_competition_gold(pool: GraderPool, data_dir: Path) -> None:
    lines = (data_dir / "golds.jsonl").read_text().splitlines()
    await check(pool, [extract_gold(str(json.loads(line)["answer"])) for line in lines], FORMS)


@pytest.mark.parametrize("name", ["gsm8k/test_660.jsonl", "gsm8k/train_1500.jsonl"])
async def test_every_gsm8k_gold(pool: GraderPool, data_dir: Path, name: str) -> None:
    lines = (data_dir / name).read_text().splitlines()
    golds = [extract_gold(json.loads(line)["answer"]) for line in lines]
    await check(pool, golds, FORMS | UNIT_FORMS)


async def test_every_numeric_competition_gold_with_a_unit(pool: GraderPool, data_dir: Path) -> None:
    lines = (data_dir / "golds.jsonl").read_text().splitlines()
    golds = [extract_gold(str(json.loads(line)["answer"])) for line in lines]
    numbers = [gold for gold in golds if gold.lstrip("-").replace(".", "").isdigit()]
    assert len(numbers) > 200
    own = [(form % gold, gold) for gold in numbers for form in UNIT_FORMS.values()]
    assert await failures(pool, own, Verdict.CORRECT) == []


MATH_FORMS = {
    "boxed": lambda gold: f"So we get $\\boxed{{{gold}}}$.",
    "plain": lambda gold: f"The answer is {gold}.",
    "dollars": lambda gold: f"The final answer is ${gold}$.",
    "blanks": lambda gold: "\\boxed{{ {} }}".format(BLANKS.sub(r"\1  ", gold)),
    "dfrac": lambda gold: "\\boxed{{{}}}".format(FRACTION.sub(r"\\dfrac", gold)),
    "around": lambda gold: f"It is ${gold}$, as shown.\n\nThe answer is $\\boxed{{{gold}}}$. Done.",
}
BLANKS = re.compile(r"([,&=+])(?!\\!)")
FRACTION = re.compile(r"\\t?frac")


def value(gold: str) -> str:
    """A gold without its unit, its typesetting and the zeros that end it."""
    text = re.sub(r"\\text\s*\{([A-Z])\}|\\text\s*\{.*\}|\\circ|\\[dt]?|[${}^,! ]", r"\1", gold)
    return text.rstrip("0") if "." in text else text


async def test_every_solution_of_math(pool: GraderPool, data_dir: Path) -> None:
    lines = (data_dir / "math_test_even.jsonl").read_text("utf-8").splitlines()
    solutions = [json.loads(line)["solution"] for line in lines]
    assert [text for text in solutions if why_no_answer(text)] == []
    golds = sorted({extract_gold(text) for text in solutions})
    assert len(golds) > 1000
    own = [(form(gold), gold) for gold in golds for form in MATH_FORMS.values()]
    assert await failures(pool, own, Verdict.CORRECT) == []
    others = [
        (f"\\boxed{{{other}}}", gold)
        for rank, gold in enumerate(golds)
        for other in random.Random(rank).sample(golds, 5)
        if value(other) != value(gold)
    ]
    assert await failures(pool, others, Verdict.WRONG) == []
