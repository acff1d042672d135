"""A tiny language model that answers every question in two steps with a guess from 1 to 4.

On problems with such answers it is right about once in four, so that a whole run with real engines
has pairs, corrections and mistakes within seconds.
"""

import itertools
import random
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from sphere_ray.engines.tiny_models import CORPUS, SEED, SHAPE, make_tokenizer, save_causal

OPENINGS = (
    "We count what is there.\n",
    "First look at the numbers.\n",
    "Some are added and some are taken away.\n",
    "Each group has the same size.\n",
)
ANSWERS = (1, 2, 3, 4)
STEPS, BATCH, LEARNING_RATE = 150, 32, 1e-2


def make_guesser(directory: Path) -> None:
    """Fit the model of `tiny:llama` to random openings and guesses; takes some seconds."""
    torch.manual_seed(SEED + 3)
    rng = random.Random(SEED)
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    choices = list(itertools.product(OPENINGS, ANSWERS))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / STEPS)
        prompts = [rng.choice(CORPUS)[: rng.randrange(20, 60)] for _ in range(BATCH)]
        replies = [f"{opening}#### {answer}" for opening, answer in rng.choices(choices, k=BATCH)]
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}],
                tokenize=False,
            )
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        starts = [
            len(tokenizer(text.rpartition("assistant\n")[0] + "assistant\n").input_ids)
            for text in texts
        ]
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        for row, start in enumerate(starts):
            labels[row, :start] = -100
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_causal(model, directory)
