import pytest

from sphere_ray.grading import extract_answer, extract_gold, normalise


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} is wrong, it is \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{7} and then \boxed{8", "7"),
        (r"first \boxed{ then \boxed{7}", "7"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\boxed{3} and \boxed{5}", "3, 5"),
        (r"$\boxed{840}$, $\boxed{840}$", "840"),
        (r"\boxed{} \boxed{ }", None),
        ("She has 5 + 3 = 8.\n#### 8", "8"),
        ("The answer is 12.5.", "12.5"),
        ("The answer is 18 because 9 * 2 = 18.", "18"),
        ("Final answer: 7 apples", "7 apples"),
        ("**Final Answer**\n\n73", "73"),
        ("The answer to the question is **73**.", "73"),
        ("The answer is 5. No, the answer is 6.", "6"),
        (r"The final answer is $\frac{1}{2}$.", r"$\frac{1}{2}$"),
        ("So in total it is **73** eggs.", "73"),
        ("**Step one** gives nothing", None),
        ("There are 5 and then 8.", None),
        ("", None),
    ],
)
def test_the_declared_answer_is_found(response: str, answer: str | None) -> None:
    assert extract_answer(response) == answer


def test_a_box_outranks_every_other_declaration() -> None:
    response = "\\boxed{1}\n#### 2\nThe answer is 3. **4**"
    assert extract_answer(response) == "1"
    assert extract_answer(response.replace("\\boxed{1}", "")) == "2"
    assert extract_answer("The answer is 3. **4**") == "3"


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("9 * 2 = <<9*2=18>>18\n#### 1,800", "1,800"),
        (r"Thus $x = \boxed{\frac{3}{4}}$ holds.", r"\frac{3}{4}"),
        (" 27.0 ", "27.0"),
        (r"41.8}^{\circ", r"41.8^{\circ}"),
    ],
)
def test_golds_of_the_common_data_sets_are_understood(text: str, gold: str) -> None:
    assert extract_gold(text) == gold
    assert extract_gold(gold) == gold


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$18.", "18"),
        (r"\( \dfrac{1}{2} \)", r"\frac{1}{2}"),
        (r"\[\left( 1 , 2 \right)\]", "( 1 , 2 )"),
        (r"\text{13}", "13"),
        (r"9{,}492\,\%", "9,492 %"),
        ("**73**", "73"),
        ("\u22122", "-2"),
    ],
)
def test_typesetting_is_stripped(text: str, expected: str) -> None:
    assert normalise(text) == expected
