"""Training problems that say what a held-out problem says are found, and no others."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.problems import ProblemSettings
from sphere_ray.problems.ingest import IngestResult, ingest
from sphere_ray.similar_texts import SimilarTexts

BENCHMARK = [
    "A baker sold 14 loaves on Monday and twice as many on Tuesday. How many loaves were sold?",
    "Mia reads 12 pages a day. How many days does she need for a book of 252 pages?",
    "A tank holds 480 litres and loses 15 litres an hour. After how many hours is it half empty?",
    "Tom is 7 years older than his sister, and together they are 31. How old is Tom?",
    "A ticket costs $8 for adults and $5 for children. What do 3 adults and 6 children pay?",
    "Find all real solutions of $x^2 - 5x + 6 = 0$.",
    "Compute $\\frac{3}{4} + \\frac{5}{6}$ and give the sum in lowest terms.",
    "What is the remainder when $7^{100}$ is divided by $13$?",
    "The sides of a right triangle are 9 cm and 40 cm. How long is the hypotenuse in centimetres?",
    "How many positive divisors does 360 have?",
    "A train leaves at 9 and covers 210 km in 3 hours. What is its average speed?",
    "Let $f(x) = 3x - 4$. Find $f(f(2))$.",
    "In a class of 28 pupils, 16 play chess and 17 play tennis. At least how many play both?",
    "A shirt is reduced from $40 to $31. By what percentage was it reduced?",
    "Nina saves 20 dollars each week and spends 65 dollars. How much has she after 9 weeks?",
    "The sum of three consecutive odd numbers is 111. What is the largest of them?",
    "A garden of 18 m by 12 m is fenced with posts every 3 m. How many posts are needed?",
    "Six machines make 90 parts in 5 hours. How many parts do 4 machines make in 8 hours?",
    "A jar has 5 red, 7 blue and 8 green marbles. What is the chance of drawing a blue marble?",
    "Paul runs 400 m in 80 seconds. How many metres does he run in 3 minutes at that pace?",
]

REWORDED = {
    0: "On Monday a baker sold 14 loaves, and on Tuesday twice as many. How many loaves in all?",
    4: "What do 6 children and 3 adults pay if tickets cost $5 for children and $8 for adults?",
    10: "At 9 a train leaves, and in 3 hours it covers 210 km. Find its average speed.",
    14: "Each week Nina saves 20 dollars. How much has she after 9 weeks if she spends 65 dollars?",
    18: "What is the chance of drawing a blue marble from a jar with 8 green, 7 blue, 5 red ones?",
}

INNOCENT = [
    "A baker sold 15 loaves on Monday and three times as many on Friday. How many is that?",
    "Mia reads 9 pages a day. How many pages does she read in 3 weeks?",
    "Find all real solutions of $x^2 - 7x + 6 = 0$.",
    "Find all real solutions of $x^2 + 5x - 6 = 0$.",
    "What is the remainder when $7^{100}$ is divided by $11$?",
    "What is the remainder when $7^{99}$ is divided by $13$?",
    "How many positive divisors does 365 have?",
    "How many positive divisors of 360 are even?",
    "Compute $\\frac{3}{4} \\cdot \\frac{5}{6}$ and give the product in lowest terms.",
    "Let $f(x) = 3x + 4$. Find $f(f(2))$.",
    "Tom has 7 marbles, and his sister has 31. How many marbles are in their bags together?",
    "The product of three consecutive odd numbers is 105. What is the smallest of them?",
    "Prove that there are infinitely many primes.",
]


def copied(question: str, number: int) -> str:
    """The same question as other people would type it."""
    variants = [
        question,
        question.upper() if "$" not in question else question,
        question.replace(" ", "  ").replace(".", " ."),
        re.sub(r"(\d)0\b", r"\g<1>0.0", question),
        question.replace("\\frac", "\\dfrac").replace("$", ""),
        f"{question} Explain every step of your reasoning.",
    ]
    return variants[number % len(variants)]


def ingested(tmp_path: Path, train: str | list[str], validation: str | list[str]) -> IngestResult:
    def source(name: str, given: str | list[str]) -> dict[str, str]:
        if isinstance(given, str):
            return {"source": given}
        path = tmp_path / f"{name}.jsonl"
        rows = ({"question": question, "answer": "1"} for question in given)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return {"source": f"file:{path}"}

    splits = {"train": train, "validation": validation, "test": ["What is the first prime?"]}
    sources = {name: source(name, each) for name, each in splits.items()}
    return ingest(ProblemSettings.model_validate(sources))


def test_a_planted_benchmark_is_found_and_nothing_else(tmp_path: Path) -> None:
    planted = [
        REWORDED.get(number, copied(question, number)) for number, question in enumerate(BENCHMARK)
    ]
    mixed = [*INNOCENT[:6], *planted, *INNOCENT[6:]]
    result = ingested(tmp_path, mixed, BENCHMARK)
    kept = {problem.question for problem in result.problems["train"]}
    assert kept == set(INNOCENT)
    exact = sum(1 for each in planted if each in BENCHMARK)
    assert result.dropped == {"in_held_out_split": exact, "contaminated": 20 - exact}
    met = {overlap.question: overlap.met_question for overlap in result.overlaps}
    for number, question in REWORDED.items():
        assert met[question] == BENCHMARK[number]
    for overlap in result.overlaps:
        assert overlap.met_split == "validation"
        assert overlap.met_source == f"file:{tmp_path}/validation.jsonl"
        assert overlap.met_id in {p.problem_id for p in result.problems["validation"]}
    details = [r.detail for r in result.rejected if r.reason == "contaminated"]
    assert details == [overlap.sentence for overlap in result.overlaps]


def test_a_long_passage_in_common_is_enough(tmp_path: Path) -> None:
    passage = "the owner of the old mill by the river grinds wheat for all five villages"
    result = ingested(
        tmp_path,
        [f"Every day {passage}. He needs 4 hours. How many sacks?", "Another question of 4 hours?"],
        [f"In summer {passage} and rests 2 days. What does he earn?"],
    )
    assert [p.question for p in result.problems["train"]] == ["Another question of 4 hours?"]
    assert "13 words in a row" in result.rejected[0].detail


def test_a_form_that_many_problems_share_is_not_their_content(tmp_path: Path) -> None:
    form = (
        "Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $Answer where $Answer is the answer to the problem."
    )
    validation = [f"{form} {question}" for question in BENCHMARK]
    train = [f"{form} {question}" for question in (*INNOCENT, BENCHMARK[2] + " Think hard.")]
    result = ingested(tmp_path, train, validation)
    assert len(result.problems["train"]) == len(INNOCENT)
    assert result.overlaps[0].met_question.endswith(BENCHMARK[2])


def test_splits_of_a_generator_never_meet_but_a_file_of_its_problems_does(tmp_path: Path) -> None:
    train = "generated:arithmetic?split=train&count=300"
    validation = "generated:arithmetic?split=validation&count=300"
    assert ingested(tmp_path, train, validation).dropped == {}
    asked = [p.question for p in ingested(tmp_path, train, validation).problems["validation"]]
    shouted = [question.upper() for question in asked[:50]]
    result = ingested(tmp_path, [*shouted, *INNOCENT], validation)
    assert result.dropped == {"contaminated": 50}


def test_chinese_questions_are_compared_by_characters(tmp_path: Path) -> None:
    first = "\u82b3\u82b3\u4e70\u4e86\u4e00\u672c\u4e66\u670999\u9875\uff0c\u770b\u4e8690\u9875"
    ending = "\uff0c\u5979\u8fd8\u5269\u591a\u5c11\u9875\u6ca1\u6709\u770b\uff1f"
    reworded = first.replace("\u82b3\u82b3", "\u5c0f\u660e") + ending
    other = first.replace("99", "80") + ending
    result = ingested(tmp_path, [reworded, other], [first + ending])
    assert [p.question for p in result.problems["train"]] == [other]


some = st.sampled_from(["the", "of", "pears", "3", "4", "x", "+", "has", "how", "many"])
words = st.lists(some, max_size=40)


@given(st.lists(words.map(" ".join), min_size=1, max_size=3), st.data())
def test_a_text_always_finds_itself(texts: list[str], data: st.DataObject) -> None:
    known = SimilarTexts()
    for text in texts:
        known.add(text)
    assert len(known) == len(texts)
    one = data.draw(st.sampled_from(texts))
    assert known.find(one) is not None or not one.strip()


@pytest.mark.parametrize(
    "unit", ["a ", "1 ", "x+", "\\frac", "}{", "the 5 of ", "\u4e00", "9", "-"]
)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * length)[:length]
        known = SimilarTexts()
        begin = time.process_time()
        known.add(text)
        known.find(text + " more")
        return time.process_time() - begin

    seconds(10)
    assert seconds(8_000) < 2
    assert seconds(160_000) < 20


def test_many_texts_that_are_alike_do_not_slow_a_look_down() -> None:
    known = SimilarTexts()
    for number in range(1500):
        known.add(f"how many of them does word{chr(97 + number % 26)}{number} have in the 5 bags")
    begin = time.process_time()
    for number in range(200):
        known.find(f"how many of them does other{number} have in these 5 big bags of a shop")
    assert time.process_time() - begin < 5
