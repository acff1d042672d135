"""The reward model being trained, in either shape: load it, score nodes of prefix trees, write it.

Both shapes give two classes at a step's last node; they differ in head and file format alone.
"""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, Qwen2Model

from sphere_ray.config.training import OptimizationSettings
from sphere_ray.engines.reward_base import head_tensors, step_tag_head
from sphere_ray.errors import ModelError
from sphere_ray.models.source import quietly, require_dense
from sphere_ray.training.policy import DTYPES, make_ready
from sphere_ray.trees.attention import TREE_ATTENTION

CLASSIFIER = "classifier"
HEAD = "score."
"""Where the names of a head's weights begin, in the module and in its files."""
BODY = "model."
"""Where those of the body's weights begin, in the module."""


class StepScorer(nn.Module):
    """A body and a head: classes at the chosen nodes of a prefix tree."""

    def __init__(self, body: PreTrainedModel, head: nn.Module) -> None:
        """Join them; the names of both stay those of the saved formats (`model`, `score`)."""
        super().__init__()
        self.model = body
        self.score = head

    @property
    def config(self) -> Any:
        """The body's configuration, which DeepSpeed and `save` ask for."""
        return self.model.config

    def forward(self, nodes_m: Tensor, **inputs: Tensor | None) -> Tensor:
        """Class logits [m, 2], float32, at the nodes of a row of tree nodes (the body's inputs)."""
        hidden = self.model(**inputs, use_cache=False).last_hidden_state
        logits: Tensor = self.score(hidden[0, nodes_m])
        return logits.float()


def load_step_scorer(model_dir: str, shape: str, settings: OptimizationSettings) -> StepScorer:
    """Load a prepared or trained model of a shape in the training precision, without dropout.

    Raises:
        ModelError: it cannot be loaded, or is a mixture of experts.
    """
    require_dense(model_dir)
    dtype = DTYPES[settings.precision]
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": TREE_ATTENTION}
    try:
        with quietly():  # the body alone is loaded here, which transformers would report
            if shape == CLASSIFIER:
                whole = AutoModelForSequenceClassification.from_pretrained(model_dir, **options)
                scorer = StepScorer(whole.base_model, whole.score)
            else:
                body = Qwen2Model.from_pretrained(model_dir, **options)
                head = step_tag_head(body.config.hidden_size)
                head.load_state_dict(head_tensors(_tensors(model_dir, HEAD)))
                scorer = StepScorer(body, head.to(dtype))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"the reward model in {model_dir} cannot be loaded: {error}") from error
    make_ready(scorer.model, settings)
    return scorer


def _tensors(model_dir: str, prefix: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(Path(model_dir).glob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            names = filter(lambda name: name.startswith(prefix), content.keys())
            found |= {name: content.get_tensor(name) for name in names}
    return found
