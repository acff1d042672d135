"""The check of equations: false ones are found, and a true one is never called false."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.method.equations import false_equation


@pytest.mark.parametrize(
    "text",
    [
        "Maria has 14 - 8 = 22 beads.\n#### 22",
        "So 6 * 4 = 25.",
        "3+4=8",
        "It costs $3 * 4 = $13 in all",
        "They make 1,000 + 1 = 1,002 pens",
        "half: 10 / 2 = 4",
        "2 + 3 * 4 = 20",
        "1/2 + 1/4 = 2/4 is wrong, 1 + 1 = 3",
        "7 \u00d7 8 = 54",
        "$3 \\times 4 = 14$",
        "10 / 3 = 3.44",
        "3 - 5 = 2",
        "total = 5 x 5 = 24 boxes",
        "<<3+4=9>>",
        "3 + 4 = 7 + 5 = 12",
    ],
)
def test_a_false_equation_is_found(text):
    assert false_equation(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "Together they have 8 + 6 = 14 shells.\n#### 14",
        "2 + 3 * 4 = 14, 20 - 3 - 4 = 13, 2 * 12 / 4 = 6",
        "1/2 + 1/4 = 3/4 and 1 / 3 = 0.33 and 2 / 3 = 0.67 and 2 / 3 = 0.66",
        "10 / 4 = 2 R 2, 10 / 4 = 2 remainder 2, 10 / 4 = 2 1/2, 10 / 4 = 3",
        "3 - 5 = -2; 3 \u2212 5 = \u22122",
        "x - 8 + 6 = 14, 2x + 3 = 9, 3 + 4x = 11, y = 3 + 4 = 7",
        "2 * (3 + 4) = 14 and (3 + 4) * 2 = 14 and 2(3) + 4 = 10",
        "2^3 + 1 = 9, 1 + 2^3 = 9, 2**3 + 1 = 9, 3 + 4! = 27, 3 * 10 = 3 * 10^1",
        "half of 8 + 6 = 10 and sqrt 9 + 16 = 19 and -3 + 5 = 2",
        "7 + 8 = 3 (mod 12)",
        "At 11 o'clock, 11 + 2 = 1",
        "In base 8, 7 + 1 = 10",
        "12:30 + 1 = 13:30 and 3,5 + 1,5 = 5 and 20% * 50 = 10 and 50 * 20% = 10",
        "100 - 20% = 80, 5 * 2 = 10%, 8 + 6 = 14cm, 8 + 6 = 1.4e1",
        "1 1/2 + 2 = 3 1/2",
        "5 dollars * 3 = 16",
        "1000000 * 3 = 3,000,000",
        "5 / 0 = 7",
        "a_1 + 2 = 5, f(3) + 2 = 9, 3.5.1 + 2 = 7",
        "0.5 * 0.5 = 0.25 = 1/4, 0.333 * 3 = 1",
    ],
)
def test_what_is_true_or_cannot_be_read_is_left_alone(text):
    assert false_equation(text) is None


NUMBERS = st.one_of(
    st.integers(0, 10**6),
    st.builds(lambda n, d: Fraction(n, 10**d), st.integers(0, 10**5), st.integers(1, 3)),
)


def shown(value, comma=False):
    value = Fraction(value)
    digits = 0
    while (value * 10**digits).denominator != 1:
        digits += 1
    return f"{float(value):{',' if comma else ''}.{digits}f}"


@given(
    st.lists(NUMBERS, min_size=2, max_size=5),
    st.lists(st.sampled_from("+-*"), min_size=4, max_size=4),
    st.booleans(),
    st.sampled_from(["", " "]),
    st.sampled_from(["", "So ", "x = ", "1. ", "(", "has: "]),
    st.integers(-3, 3),
)
def test_a_sum_is_false_exactly_if_python_says_so(numbers, signs, comma, space, before, off):
    """An independent reading: Python's own arithmetic on the same signs, with its precedence."""
    exact = "".join(
        f"{sign}Fraction('{Fraction(n)}')" for sign, n in zip(["", *signs], numbers, strict=False)
    )
    value = eval(exact, {"Fraction": Fraction}) + off
    terms = shown(numbers[0], comma) + "".join(
        f"{space}{sign}{space}{shown(n, comma)}"
        for sign, n in zip(signs, numbers[1:], strict=False)
    )
    if not float(value).is_integer() and abs(value) > 10**9:
        return  # a float would not show every digit
    end = ")" if before == "(" else " apples."
    if abs(value) >= 10**15:
        return
    found = false_equation(f"{before}{terms}{space}={space}{shown(value, comma)}{end}")
    assert (found is not None) == (off != 0)


@given(st.integers(1, 9999), st.integers(1, 999), st.integers(0, 4))
def test_a_rounded_quotient_is_true(one, other, digits):
    for text in (
        f"{one / other:.{digits}f}",
        shown(Fraction(one * 10**digits // other, 10**digits)),
    ):
        assert false_equation(f"so {one} / {other} = {text} each") is None


@given(st.text(alphabet="0123456789+-*/=x., $\n(^%", max_size=60))
def test_no_text_breaks_it_and_equal_sides_never_differ(text):
    found = false_equation(text)
    if found is not None:
        left, _, right = found.partition("=")
        assert re.sub(r"\s", "", left) != re.sub(r"\s", "", right)
