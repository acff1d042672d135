"""A tiny language model that answers every question in two steps with a guess from 1 to 4.

It guesses 4 more often than not. On problems with such answers it is then often right, or mostly
wrong, so that a whole run with real engines enters every stage and has pairs within seconds.
"""

import itertools
import random
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sphere_ray.models.tiny import (
    CORPUS,
    END_OF_TURN,
    SEED,
    SHAPE,
    TURN,
    make_tokenizer,
    save_causal,
)

OPENINGS = (
    "We count what is there.\n",
    "First look at the numbers.\n",
    "Some are added and some are taken away.\n",
    "Each group has the same size.\n",
)
ANSWERS = (1, 2, 3, 4, 4, 4, 4, 4, 4, 4)
IGNORED = -100
"""The target that cross_entropy leaves out."""
STEPS, BATCH, LEARNING_RATE = 150, 32, 1e-2


def make_guesser(directory: Path) -> None:
    """Fit the model of `tiny:llama` to random openings and guesses; takes some seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on busy cores threads of so little work wait for each other
    try:
        save_causal(_fitted(make_tokenizer()), directory)
    finally:
        torch.set_num_threads(threads)


def _fitted(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(SEED + 3)
    rng = random.Random(SEED)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    choices = list(itertools.product(OPENINGS, ANSWERS))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / STEPS)
        heads = [_head(rng.choice(CORPUS)[: rng.randrange(20, 60)]) for _ in range(BATCH)]
        texts = [
            f"{head}{opening}#### {answer}{END_OF_TURN}"
            for head, (opening, answer) in zip(heads, rng.choices(choices, k=BATCH), strict=True)
        ]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, IGNORED)
        for row, head in enumerate(heads):
            labels[row, : len(tokenizer(head).input_ids)] = IGNORED
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return model


def _head(question: str) -> str:
    """A question in the chat format, up to where the answer begins."""
    return f"{TURN}user\n{question}{END_OF_TURN}\n{TURN}assistant\n"
