from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.method.seeds import derive_seed

PARTS = st.lists(st.text(max_size=5) | st.integers(), max_size=4)


@given(PARTS, PARTS)
def test_different_identities_have_different_seeds(first, second):
    same = [(type(p), p) for p in first] == [(type(p), p) for p in second]
    assert (derive_seed(*first) == derive_seed(*second)) == same


@given(PARTS)
def test_seeds_fit_a_signed_64_bit_integer(parts):
    assert 0 <= derive_seed(*parts) < 2**63


def test_a_seed_is_the_same_in_every_process_and_release():
    assert derive_seed("run", 3, "problem") == 3238039894695263342
