"""Peak memory of one training step against the length of its pair, at the width of a 7B model.

A step is forward, preference loss, backward and a plain update of one pair with a short prompt, in
a process of its own. AdamW's state is left out: it is 12 bytes a weight, whatever the length. The
model is Qwen2.5-7B's shape with two layers, tied embeddings and constant weights, in bfloat16 with
gradient checkpointing. Prints `long_chains_linear`: the largest growth per token between two
lengths that follow each other, over that between the first and the last. `--attention sdpa` shows
what a mask takes.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from sphere_ray.config.training import LossSettings, TrainingSettings
from sphere_ray.method.preference import LossInputs, preference_loss, sequence_logps
from sphere_ray.training.policy import make_ready
from sphere_ray.trees.pairs import EncodedPair, collate
from sphere_ray.trees.scoring import TokenScorer, completion_logps
from tests.benchmarks.report import emit, rounded

LENGTHS, PROMPT, LAYERS, VOCABULARY = (1024, 2048, 4096, 8192, 16384), 128, 2, 152_064
MIB, GRANULE = 1 << 20, 1 << 10


def seven_b(layers: int, vocabulary: int, attention: str) -> Any:
    """A model as wide as Qwen2.5-7B, without its values."""
    config = Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=layers,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=1 << 16,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    model = model.to_empty(device="cpu")
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # computed, not loaded
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 1e-3 if parameter.ndim > 1 else 1.0)
    return model


def one_step(length: int, vocabulary: int, layers: int, attention: Any) -> dict[str, Any]:
    """A step on a pair with so many tokens a side, and the peak of this process."""
    torch.manual_seed(0)
    model = seven_b(layers, vocabulary, attention)
    make_ready(model, TrainingSettings(gradient_checkpointing=True, precision="bf16"))
    scorer = TokenScorer(model.train())
    prompt, chosen, rejected = (
        torch.randint(vocabulary, (count,)).tolist()
        for count in (PROMPT, length - PROMPT, length - PROMPT)
    )
    pair = EncodedPair(pair_id="", prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)
    loaded, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    tensors = collate([pair], torch.device("cpu"), attention)
    sums_n = sequence_logps(completion_logps(scorer, tensors), tensors.completion_mask_nt)
    lengths_n = tensors.completion_mask_nt.sum(dim=-1)
    outputs = preference_loss(
        LossInputs(
            chosen_b=sums_n[:1],
            rejected_b=sums_n[1:],
            reference_chosen_b=sums_n[:1].detach(),
            reference_rejected_b=sums_n[1:].detach(),
            chosen_length_b=lengths_n[:1],
            rejected_length_b=lengths_n[1:],
        ),
        LossSettings(),
    )
    outputs.loss_b.sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad, alpha=1e-3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "length": length,
        "nodes": tensors.computed,
        "loaded_mib": loaded // GRANULE,
        "peak_mib": peak // GRANULE,
        "seconds": rounded(time.perf_counter() - began),
    }


def linear(steps: list[dict[str, Any]]) -> float:
    """The largest growth of the peak per token, over that between the first and the last."""

    def growth(one: dict[str, Any], other: dict[str, Any]) -> float:
        return (other["peak_mib"] - one["peak_mib"]) / (other["length"] - one["length"])

    return max(growth(*two) for two in pairwise(steps)) / growth(steps[0], steps[-1])


def main() -> None:
    """Print the line, and each step as it ends to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--attention", choices=("tree", "sdpa"), default="tree")
    parser.add_argument("--one", action="store_true", help="the step itself, in this process")
    chosen = parser.parse_args()
    how = (chosen.vocabulary, chosen.layers, chosen.attention)
    if chosen.one:
        sys.stdout.write(f"{json.dumps(one_step(chosen.lengths[0], *how))}\n")
        return
    names = ("--vocabulary", "--layers", "--attention")
    options = [str(part) for pair in zip(names, how, strict=True) for part in pair]
    steps = []
    for length in chosen.lengths:
        command = [sys.executable, "-m", __spec__.name, "--one", "--lengths", str(length), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        steps.append(json.loads(done.stdout.splitlines()[-1]))
        sys.stderr.write(f"{steps[-1]}\n")
    emit("long_chains_linear", rounded(linear(steps)), shape=how, steps=steps)


if __name__ == "__main__":
    main()
