"""The share of off-policy pairs among all pairs of an iteration."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.method import PairSettings
from sphere_ray.method.pairs import off_policy_cut

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
