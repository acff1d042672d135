import torch
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.trees.tree import PrefixTree

CPU = torch.device("cpu")
SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=6)


@given(SEQUENCES)
def test_what_a_node_sees_is_its_sequence_so_far(sequences: list[list[int]]) -> None:
    tree = PrefixTree.of(sequences)
    ids_s, depths_s = torch.tensor(tree.ids_s), torch.tensor(tree.depths_s)
    mask_ss = tree.inputs(CPU, "sdpa")["attention_mask"][0, 0]
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert len(path) == len(sequence)
        for length, node in enumerate(path, start=1):
            seen = mask_ss[node]
            order = depths_s[seen].argsort()
            assert depths_s[seen][order].tolist() == list(range(length))
            assert ids_s[seen][order].tolist() == sequence[:length]


@given(SEQUENCES)
def test_there_are_as_many_nodes_as_distinct_prefixes(sequences: list[list[int]]) -> None:
    prefixes = {tuple(s[:length]) for s in sequences for length in range(1, len(s) + 1)}
    assert len(PrefixTree.of(sequences).ids_s) == len(prefixes)


@given(SEQUENCES)
def test_blocks_hold_what_a_node_sees_once_and_nothing_else(sequences: list[list[int]]) -> None:
    tree = PrefixTree.of(sequences)
    seen_ss = torch.zeros(len(tree.ids_s), len(tree.ids_s), dtype=torch.int64)
    for first, stop, from_key, to_key, causal in tree.blocks():
        block = torch.ones(stop - first, to_key - from_key, dtype=torch.int64)
        seen_ss[first:stop, from_key:to_key] += block.tril() if causal else block
    mask_ss = tree.inputs(CPU, "sdpa")["attention_mask"][0, 0]
    assert torch.equal(seen_ss, mask_ss.long())
