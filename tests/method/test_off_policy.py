"""The gates across problems: the share of off-policy pairs, and the balance of families."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.method import PairSettings
from sphere_ray.method.pairs import family_cuts, off_policy_cut

IDS = st.lists(st.integers(0, 10**6).map("{:032x}".format), unique=True, max_size=30)


@given(st.integers(0, 30), IDS, st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]), st.integers(0, 30))
def test_the_off_policy_share_is_capped(on, ids, share, chunk):
    column = pa.chunked_array([ids[:chunk], ids[chunk:]], pa.large_string())
    cut = off_policy_cut(on, column, PairSettings(max_off_policy_share=share))
    kept = [each for each in ids if cut is None or each <= cut]
    assert kept == ids if cut is None else sorted(kept) == sorted(ids)[: len(kept)]
    assert len(kept) <= share * (on + len(kept)) + 1e-9
    assert kept == ids or len(kept) + 1 > share * (on + len(kept) + 1)


def test_a_million_off_policy_pairs_need_no_texts_and_little_time():
    ids = pa.chunked_array([[f"{i * 7919 % 1_000_003:032x}" for i in range(1_000_000)]])
    cut = off_policy_cut(700_000, ids, PairSettings(max_off_policy_share=0.3))
    assert sum(each <= cut for each in ids.to_pylist()) == 300_000


SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), min_size=1)


@given(SIZES, st.sampled_from([1.0, 1.5, 2.0, 3.0]))
def test_no_family_has_more_than_its_ratio_to_the_mean(sizes, ratio):
    ids = {name: [f"{i * 7919 % 1009:04}{name}" for i in range(n)] for name, n in sizes.items()}
    columns = {name: pa.chunked_array([each], pa.large_string()) for name, each in ids.items()}
    cuts = family_cuts(columns, PairSettings(max_family_ratio=ratio))
    kept = {n: [i for i in each if n not in cuts or i <= cuts[n]] for n, each in ids.items()}
    for name, each in kept.items():
        assert sorted(each) == sorted(ids[name])[: len(each)]
    # Slowly: the largest bound for which the rule holds.
    bounds = [
        bound
        for bound in range(1, max(sizes.values()) + 1)
        if bound <= ratio * sum(min(n, bound) for n in sizes.values()) / len(sizes) + 1e-9
    ]
    expected = {name: min(n, max(bounds)) for name, n in sizes.items()}
    assert {name: len(each) for name, each in kept.items()} == expected


def test_families_are_left_alone_without_a_ratio():
    columns = {"a": pa.chunked_array([["1", "2"]]), "b": pa.chunked_array([["3"]])}
    assert family_cuts(columns, PairSettings()) == {}
