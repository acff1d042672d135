"""However long an answer is and whatever it repeats, its time grows with its length alone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray.grading import extract_answer, normalise
from sphere_ray.grading.exact import compare_exactly
from sphere_ray.grading.extract import why_no_answer
from sphere_ray.grading.pool import decide
from tests.linear_time import linear_time, repeated

PIECES = [
    *(r"\boxed{", "}", "{", "#### ", "answer is ", "Answer: ", "**", "$", r"\[", r"\(", r"\)"),
    *("1", "7", "x", ",", ".", "-", "+", "%", "(", ")", "[", "]", "=", "/", "^", "_", ":", "!"),
    *(r"\frac", r"\frac{1}{2}", r"\sqrt", r"\text{", r"\left(", r"\right)", r"\\", "&", r"\,", "~"),
    *(r"\begin{pmatrix}", r"\end{pmatrix}", r"\pm", r"\cup", " and ", " or ", " cm", " dollars"),
    *(" ", "\n", "\t", "\u0301", "\u221a", "\u00b2", "\u4e00", "\uff0c", "<answer>", "</s>"),
    *("1,000", "0.5", "3 1/2", "10^", "infinity", "is ", "the ", "A", "(B)", "x=1,"),
]  # fmt: skip
long_texts = repeated(PIECES, 1 << 17)


@settings(max_examples=150)
@given(long_texts, st.sampled_from(["7", "$\\frac{1}{2}$", "(1, 2)", "x=3", "\\text{A}"]))
def test_a_verdict_is_reached_in_linear_time(text: str, gold: str) -> None:
    with linear_time(len(text), micros_a_char=60):
        decide(text, gold)
        why_no_answer(text)
        answer = extract_answer(text) or text
        compare_exactly(normalise(answer), normalise(gold))


@settings(max_examples=150)
@given(long_texts)
def test_a_long_gold_is_read_in_linear_time(text: str) -> None:
    with linear_time(len(text), micros_a_char=60):
        decide("The answer is 7.", text)
        normalise(text)
        decide(text, text)
