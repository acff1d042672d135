"""Properties of the fast path over generated rationals and arbitrary text."""

from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sphere_ray.grading import extract_answer, normalise
from sphere_ray.grading.exact import compare_exactly
from sphere_ray.grading.extract import why_no_answer
from sphere_ray.grading.pool import decide
from sphere_ray.grading.rational import rounded

rationals = st.builds(
    lambda whole, top, bottom: whole + Fraction(top, bottom),
    st.integers(-(10**9), 10**9),
    st.integers(0, 999),
    st.integers(1, 1000),
)
answer_text = st.text(alphabet="0123456789.,+-*/^%$(){}[] \\abcxfrtie=_", max_size=40)
MARKUP = ["\\text{", "}", "{", "\\left", "$", "\\,", "~", "5", ",", "x", "\\boxed{", "**", "%"]
markup = st.lists(st.sampled_from(MARKUP), max_size=15).map("".join)


def spellings(value: Fraction) -> list[str]:
    sign, size = ("-" if value < 0 else ""), abs(value)
    top, bottom = size.numerator, size.denominator
    whole, rest = divmod(top, bottom)
    forms = [
        f"{sign}{top}/{bottom}",
        rf"{sign}\frac{{{top}}}{{{bottom}}}",
        rf"{sign}\dfrac{{{3 * top}}}{{{3 * bottom}}}",
        f"{sign}{top} / {bottom} cm",
    ]
    if bottom == 1:
        forms += [
            f"{value}",
            f"{int(value):,}",
            f"{value}.00",
            f"${value}$",
            rf"{value} \text{{ cm}}",
        ]
    elif whole:
        forms += [f"{sign}{whole} {rest}/{bottom}", rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}"]
    return forms


@settings(deadline=None)
@given(rationals)
def test_every_spelling_of_a_rational_is_equal_to_every_other(value: Fraction) -> None:
    forms = [normalise(form) for form in spellings(value)]
    for left in forms:
        for right in forms:
            assert compare_exactly(left, right) is True, (left, right)


@settings(deadline=None)
@given(rationals, rationals)
@example(Fraction(1000), Fraction(101001, 101))  # 1000.0099, which 1000.00 truncates
def test_different_rationals_are_wrong_in_every_spelling(left: Fraction, right: Fraction) -> None:
    if left == right:
        return
    for first in spellings(left):
        for second in spellings(right):
            assert compare_exactly(normalise(first), normalise(second)) is False


@given(st.one_of(st.text(max_size=60), answer_text, markup))
def test_normalise_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@given(st.one_of(answer_text, markup))
def test_equivalence_is_reflexive(text: str) -> None:
    answer = normalise(text)
    assert compare_exactly(answer, answer) is (True if answer else None)


@given(st.one_of(answer_text, markup), st.one_of(answer_text, markup))
def test_equivalence_is_symmetric(left: str, right: str) -> None:
    left, right = normalise(left), normalise(right)
    assert compare_exactly(left, right) is compare_exactly(right, left)


@given(st.one_of(answer_text, markup))
def test_extraction_never_fails_on_a_boxed_text(text: str) -> None:
    found = extract_answer(f"\\boxed{{{text}}}")
    assert found is None or found


def decimal(value: Fraction, places: int) -> str:
    scaled = round(value * 10**places)
    sign, digits = ("-" if scaled < 0 else ""), str(abs(scaled)).rjust(places + 1, "0")
    return f"{sign}{digits[: len(digits) - places]}.{digits[len(digits) - places :]}"


@settings(deadline=None)
@given(rationals, st.tuples(*[st.integers(5, 12)] * 2))
def test_decimals_that_equal_one_fraction_equal_each_other(
    value: Fraction, places: tuple[int, int]
) -> None:
    exact = f"{value.numerator}/{value.denominator}"
    texts = [decimal(value, each) for each in places]
    if all(compare_exactly(text, exact) for text in texts):
        assert compare_exactly(*texts) is True


@settings(deadline=None)
@given(rationals)
def test_a_fraction_equals_its_six_places_and_no_other_six(value: Fraction) -> None:
    exact, near = f"{value.numerator}/{value.denominator}", rounded(value)
    assert rounded(near) == near
    if 10**6 % near.denominator == 0:
        step = Fraction(1, 10**6)
        assert compare_exactly(decimal(near, 6), exact) is True
        if abs(value) > Fraction(1, 5):
            assert compare_exactly(decimal(near + step, 6), exact) is False


@given(st.text(max_size=200_000))
def test_extraction_and_grading_never_raise(text: str) -> None:
    for form in (text, f"\\boxed{{{text}}}", f"The answer is {text}", f"#### {text}"):
        decide(form, text)
        why_no_answer(form)
