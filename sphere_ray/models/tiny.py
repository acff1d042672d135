"""Small random models that load wherever real ones do; for tests of engines and training.

Two layers, two heads of 32 (vLLM's CPU attention takes no smaller ones, and two heads split
over two tensor-parallel ranks), float32, always the same weights. They talk nonsense.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SEED = 20250304
END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
STEP_TAG = "<extra_0>"
VOCAB_SIZE = 512
# Wide enough that tokens differ in likelihood and steps in reward; 0.02 would give near ties.
INITIALIZER_RANGE = 0.1
SHAPE: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": INITIALIZER_RANGE,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "Question: Tom has 12 apples and buys 30 more. How many apples does Tom have now?\n\n",
    "Step 1: Tom starts with 12 apples.\n\nStep 2: He buys 30 more, so 12 + 30 = 42.\n\n",
    "The answer is 42.\n\n#### 42\n\nSo the final answer is \\boxed{42}.\n\n",
    "There are 7 days in a week and 24 hours in a day: 7 * 24 = 168 hours.\n\n",
    "She sells 3 cups for $5 each, which is 3 x 5 = 15 dollars, and keeps 15 - 4 = 11.\n\n",
    "Please reason step by step, and put your final answer within \\boxed{}.\n\n",
    "A farmer plants 9 rows of 14 trees; each tree bears 25 kg of fruit. What is the weight?\n",
    "First we multiply the number of rows by the number of trees: 9 * 14 = 126 trees.\n\n",
    "Then the total weight is 126 * 25 = 3150 kg. So the farmer picks 3150 kg of fruit.\n\n",
    "Anna read 18 pages on Monday, twice as many on Tuesday and half of the other 66 pages.\n\n",
    "Let x be the price of one ticket. Then 4x + 10 = 90, so 4x = 80 and x = 20.\n\n",
    "You are a helpful assistant. Solve the problem. Find the mistake, then solve it again.\n\n",
)


def make_llama(directory: Path) -> None:
    """A causal language model with tied embeddings."""
    torch.manual_seed(SEED)
    save_causal(LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)), directory)


def make_qwen2(directory: Path) -> None:
    """A causal language model with an output head of its own."""
    torch.manual_seed(SEED + 1)
    save_causal(Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False)), directory)


def make_qwen2_prm(directory: Path) -> None:
    """A process reward model in the format of Qwen2.5-Math-PRM, with token ids of its own.

    transformers has no such class, so the tensors are written under the names vLLM reads.
    """
    torch.manual_seed(SEED + 2)
    tokenizer = make_tokenizer(extra_tokens=(STEP_TAG,))
    config = Qwen2Config(**SHAPE, tie_word_embeddings=False)
    config.num_labels = 2
    config.architectures = ["Qwen2ForProcessRewardModel"]
    config.dtype = torch.float32
    body = Qwen2ForCausalLM(config).model
    hidden = config.hidden_size
    score = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    for parameter in score.parameters():
        nn.init.normal_(parameter, std=2 * INITIALIZER_RANGE)
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in body.state_dict().items()}
    tensors |= {f"score.{k}": v for k, v in score.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def make_tokenizer(extra_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 512 tokens with a ChatML template.

    `extra_tokens` come after the three special tokens and shift every other id.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=1,
        special_tokens=[END_OF_TEXT, TURN, END_OF_TURN, *extra_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
    )


def save_causal(model: PreTrainedModel, directory: Path) -> None:
    """Save a model beside the tokenizer of this module."""
    model.generation_config = GenerationConfig(eos_token_id=[2, 0], pad_token_id=0)
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
