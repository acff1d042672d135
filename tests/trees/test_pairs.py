import torch

from sphere_ray.trees.pairs import EncodedPair, collate, pad_logps

CPU = torch.device("cpu")


def test_collate_computes_each_distinct_prefix_once() -> None:
    pairs = [
        EncodedPair(pair_id="a", prompt_ids=(5, 6, 7), chosen_ids=(1,), rejected_ids=(2, 3)),
        EncodedPair(pair_id="b", prompt_ids=(5, 8), chosen_ids=(4, 4, 4), rejected_ids=(4, 9)),
    ]
    tensors = collate(pairs, CPU)
    assert sorted(tensors.inputs["input_ids"][0].tolist()) == [1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9]
    assert tensors.completion_mask_nt.sum(dim=1).tolist() == [1, 3, 2, 2]
    ids = [
        tensors.scored_ids_m[nodes][mask].tolist()
        for nodes, mask in zip(tensors.nodes_nt, tensors.completion_mask_nt, strict=True)
    ]
    assert ids == [[1], [4, 4, 4], [2, 3], [4, 9]]
    parents = tensors.parents_m[tensors.nodes_nt[:, 0]]
    assert tensors.inputs["input_ids"][0][parents].tolist() == [7, 8, 7, 8]


def test_unshared_rows_are_whole_and_begin_anew() -> None:
    pairs = [
        EncodedPair(pair_id="a", prompt_ids=(5, 6), chosen_ids=(1,), rejected_ids=(1, 3)),
        EncodedPair(pair_id="b", prompt_ids=(5,), chosen_ids=(4,), rejected_ids=(4,)),
    ]
    tensors = collate(pairs, CPU, "flash_attention_2")
    assert tensors.inputs["attention_mask"] is None
    assert tensors.inputs["input_ids"].tolist() == [[5, 6, 1, 5, 4, 5, 6, 1, 3, 5, 4]]
    assert tensors.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3, 0, 1]]
    assert tensors.parents_m.tolist() == [1, 3, 6, 7, 9]


def test_logps_are_padded_with_zeros() -> None:
    assert pad_logps([[-1.0], [-2.0, -3.0]], 3).tolist() == [[-1.0, 0.0, 0.0], [-2.0, -3.0, 0.0]]
