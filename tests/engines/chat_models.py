"""Tokenizers of tiny vocabularies with the special tokens and chat templates of known families."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of chat models: its special tokens, and what its template makes of a question."""

    specials: tuple[str, ...]
    eos: str
    end_of_turn: str
    prompt: str
    """The prompt for `Think.` as the system text and ` 2+2? ` as the question."""
    bos: str | None = None
    known_ends: tuple[str, ...] = ()
    """Those in the generation configuration."""


FAMILIES = {
    "qwen": Family(
        specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        end_of_turn="<|im_end|>",
        known_ends=("<|im_end|>", "<|endoftext|>"),
        prompt="<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n 2+2? <|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "llama": Family(
        specials=(
            *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
            *("<|start_header_id|>", "<|end_header_id|>"),
        ),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        end_of_turn="<|eot_id|>",
        known_ends=("<|end_of_text|>", "<|eot_id|>"),
        prompt="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nThink.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": Family(
        specials=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        end_of_turn="<end_of_turn>",
        known_ends=("<eos>",),
        prompt="<bos><start_of_turn>user\nThink.\n\n 2+2?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "phi": Family(
        specials=("<s>", "</s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        bos="<s>",
        eos="<|endoftext|>",
        end_of_turn="<|end|>",
        known_ends=("<|endoftext|>", "<|end|>", "<|assistant|>"),
        prompt="<|user|>\nThink.\n\n 2+2? <|end|>\n<|assistant|>\n",
    ),
    "mistral": Family(
        specials=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        bos="<s>",
        eos="</s>",
        end_of_turn="</s>",
        known_ends=("</s>",),
        prompt="<s>[INST] Think.\n\n 2+2? [/INST]",
    ),
}


def write_model(family: str, directory: Path) -> str:
    """Write everything of a model but its weights: tokenizer, template, generation settings."""
    known = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(known.specials))
    names = {"eos_token": known.eos} | ({"bos_token": known.bos} if known.bos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = (TEMPLATES / f"{family}.jinja").read_text()
    fast.save_pretrained(directory)
    ends = [fast.convert_tokens_to_ids(end) for end in known.known_ends]
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return str(directory)
