"""Packing against trying everything."""

from collections.abc import Sequence
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.planning.packing import WHOLE, Bin, Demand, pack

DEMANDS = st.builds(
    lambda work, least: Demand(name="d", share=work[0], ranks=work[1], least_bytes=least),
    st.one_of(
        st.tuples(st.sampled_from([2000, 3000, 4000, 5000, 6000, 7000]), st.just(1)),
        st.tuples(st.just(WHOLE), st.integers(1, 3)),
    ),
    st.sampled_from([0.0, 40.0]),
)
BINS = st.builds(
    lambda gpus, size: Bin(gpus=gpus, gpu_bytes=size),
    st.integers(0, 3),
    st.sampled_from([None, 24.0, 80.0]),
)


def possible(demands: Sequence[Demand], bins: Sequence[Bin]) -> bool:
    """Whether any placement exists: every set of GPUs of every node is tried for each demand."""
    free = [[WHOLE] * each.gpus for each in bins]

    def placed(number: int) -> bool:
        if number == len(demands):
            return True
        demand = demands[number]
        for node, gpus in zip(bins, free, strict=True):
            if node.gpu_bytes is not None and node.gpu_bytes < demand.least_bytes:
                continue
            for chosen in combinations(range(node.gpus), demand.ranks):
                if all(gpus[gpu] >= demand.share for gpu in chosen):
                    for gpu in chosen:
                        gpus[gpu] -= demand.share
                    done = placed(number + 1)
                    for gpu in chosen:
                        gpus[gpu] += demand.share
                    if done:
                        return True
        return False

    return placed(0)


@given(st.lists(DEMANDS, max_size=6), st.lists(BINS, min_size=1, max_size=3))
def test_what_can_be_placed_is_placed_and_no_gpu_twice(
    demands: list[Demand], bins: list[Bin]
) -> None:
    nodes = pack(demands, bins)
    assert (nodes is not None) == possible(demands, bins)
    for index, each in enumerate(bins if nodes is not None else []):
        own = [d for d, node in zip(demands, nodes or [], strict=True) if node == index]
        assert possible(own, [each])


def test_groups_come_before_what_fits_beside_them() -> None:
    """One by one in this order a rank of four would find no node."""
    demands = [
        *[Demand(name="policy", share=WHOLE, ranks=1)] * 2,
        Demand(name="small", share=WHOLE, ranks=3),
        Demand(name="reward", share=WHOLE, ranks=4),
    ]
    nodes = pack(demands, [Bin(gpus=4), Bin(gpus=5)])
    assert nodes is not None
    assert nodes[2] != nodes[3]
    assert nodes[:2] == [1, 1]


def test_many_nodes_are_packed_at_once() -> None:
    demands = [Demand(name="p", share=5000, ranks=1)] * 256
    demands += [Demand(name="r", share=WHOLE, ranks=4)] * 96
    nodes = pack(demands, [Bin(gpus=8)] * 64)
    assert nodes is not None
    assert pack([*demands, demands[-1]], [Bin(gpus=8)] * 64) is None
