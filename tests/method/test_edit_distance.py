import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.method.pairs import is_distant


def levenshtein(first, second):
    """The textbook table."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


WORDS = st.text(alphabet="abc", max_size=12)


@given(WORDS, WORDS, st.integers(0, 14))
def test_distance_agrees_with_the_textbook_table(first, second, distance):
    assert is_distant(first, second, distance) == (levenshtein(first, second) >= distance)


@pytest.mark.parametrize("second", ["ab" * 1000, "ab" * 999 + "ba", "cd" * 1000])
def test_long_texts_are_cheap(second):
    # About 10 ms; the table would take seconds.
    for _ in range(3):
        assert is_distant("ab" * 1000, second, 10) == (second[:2] == "cd")
