"""DeepSpeed: its configuration, and its engine behind a few verbs."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from sphere_ray.compat import deepspeed as private
from sphere_ray.config.training import OptimizationSettings, TrainerPlacement
from sphere_ray.errors import TrainingError
from sphere_ray.training.batches import accumulation
from sphere_ray.training.messages import LearningRequest, ReferenceRequest

_BETA1 = 0.9
_TAG = "state"
_RATE = "rate"
"""Key of a parameter group: its learning rate over that of a step."""


def build_config(settings: OptimizationSettings, placement: TrainerPlacement) -> dict[str, Any]:
    """The DeepSpeed configuration of a training run.

    Raises:
        ConfigError: the batch size does not divide (see `batches.accumulation`).
    """
    stage = settings.zero_stage_on(placement)
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": placement.use_gpu}
    if placement.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": accumulation(settings, placement),
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": settings.precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    if stage:
        # Sums of many small bf16 gradients lose them. (DeepSpeed has no such mix for stage 0.)
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def join_process_group(*, use_gpu: bool) -> None:
    """Let DeepSpeed use the process group that Ray Train made."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not use_gpu:
        private.skip_shared_memory_build()
    backend = "nccl" if use_gpu else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)


class ShardedPolicy:
    """A model whose state is sharded over the workers; every method is called by all of them."""

    def __init__(self, engine: Any, *, replicated: bool = False) -> None:
        """Wrap a DeepSpeed engine.

        A `replicated` one has the plain AdamW (stage 0, fp32), which records no gradient norm.

        Raises:
            TrainingError: this version of DeepSpeed would give wrong weights under ZeRO-3.
        """
        self._engine, self._replicated = engine, replicated
        partitioned = engine.zero_optimization_partition_weights()
        if partitioned and (faults := private.zero3_faults(engine)):
            raise TrainingError(
                f"this version of DeepSpeed cannot be used with ZeRO-3: {'; '.join(faults)}; "
                f"install deepspeed=={private.TESTED} or set trainer.zero_stage: 2"
            )
        self._norm = torch.tensor(0.0)

    def __call__(self, **inputs: Any) -> Any:
        """The model's forward."""
        return self._engine(**inputs)

    @property
    def model(self) -> Any:
        """The wrapped model; under ZeRO-3 its parameters are empty here."""
        return self._engine.module

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        device: torch.device = self._engine.device
        return device

    def step(self, loss: Tensor, learning_rate: float, *, last: bool) -> None:
        """Backward; behind the `last` forward of an optimizer step also clip and update.

        Gradients are divided by the workers and by `batches.accumulation`, so a loss that is a sum
        over this forward's pairs is multiplied by both and divided by the global number of pairs
        before.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group[_RATE]
        self._engine.backward(loss)
        if self._replicated:
            self._norm = get_total_norm(
                [p.grad for p in self.model.parameters() if p.grad is not None]
            )
        self._engine.step()

    def grad_norm(self) -> float:
        """Global gradient norm of the last update, before clipping."""
        norm = self._norm if self._replicated else self._engine.get_global_grad_norm()
        return float(norm)

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        """Write this worker's part of a resumable checkpoint, with `state`."""
        (directory / _TAG).mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(str(directory), _TAG, client_state=dict(state))

    def load(self, directory: Path) -> Mapping[str, Any]:
        """Load a checkpoint of the same world size and return its `state`.

        Raises:
            TrainingError: there is none in the directory.
        """
        path, state = self._engine.load_checkpoint(str(directory), _TAG)
        if path is None:
            raise TrainingError(f"the checkpoint in {directory} is not complete")
        loaded: Mapping[str, Any] = state
        return loaded

    def trained_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that learn, whole and in float32; all workers take them one by one.

        They are those that the optimizer updates, not what a forward in bf16 rounds them to.

        Raises:
            TrainingError: this version of DeepSpeed does not give them.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                whole = parameter if self._replicated else safe_get_full_fp32_param(parameter)
                if whole is None:
                    raise TrainingError(
                        f"DeepSpeed does not give the float32 weights of {name}; "
                        f"install deepspeed=={private.TESTED}"
                    )
                yield name, whole.detach()

    def close(self) -> None:
        """Let go of model and optimizer, which hooks in torch's graph hold."""
        self._engine.destroy()


def load_for_training(
    load: Callable[[], nn.Module], request: LearningRequest, rates: Mapping[str, float]
) -> ShardedPolicy:
    """Load a model, give it an AdamW optimizer, and shard both.

    Parameters whose name begins with a key of `rates` learn so many times as fast.

    Raises:
        ConfigError: the batch size does not divide (see `batches.accumulation`).
        ModelError: the model cannot be loaded.
        TrainingError: this version of DeepSpeed cannot be used.
    """
    private.warn_if_untested()
    config = build_config(request.settings, request.placement)
    model, decay = _load(load, config), request.settings.weight_decay
    groups = _parameter_groups(model, decay, rates)
    options: dict[str, Any] = {
        "lr": request.learning_rate,
        "betas": (_BETA1, request.settings.adam_beta2),
        "eps": request.settings.adam_epsilon,
        "weight_decay": decay,
    }
    if request.placement.offload:
        config["optimizer"] = {"type": "AdamW", "params": options}
        engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=config)
        return ShardedPolicy(engine)
    # DeepSpeed's own Adam would have to be compiled on the worker first.
    plain = torch.optim.AdamW(groups, fused=True, **options)
    engine, *_ = deepspeed.initialize(model=model, optimizer=plain, config=config)
    return ShardedPolicy(engine, replicated=engine.optimizer is plain)


def load_for_inference(
    load: Callable[[], nn.Module], request: ReferenceRequest, device: torch.device
) -> Callable[..., Any]:
    """Load a model without an optimizer; only ZeRO-3 shards it."""
    config = build_config(request.settings, request.placement)
    model = _load(load, config)
    if request.placement.zero_stage < 3:
        return model.to(device).eval()
    engine, *_ = deepspeed.initialize(model=model, config=config)
    engine.eval()
    return ShardedPolicy(engine)


def _load(load: Callable[[], nn.Module], config: Mapping[str, Any]) -> nn.Module:
    # While transformers sees this object (by a weak reference), `from_pretrained` loads under
    # ZeRO-3 only this worker's part of each parameter.
    stage = config["zero_optimization"]["stage"]
    marker = HfDeepSpeedConfig(dict(config)) if stage == 3 else None
    try:
        return load()
    finally:
        del marker


def _parameter_groups(
    model: nn.Module, weight_decay: float, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    # Norms and biases are vectors and are not decayed.
    groups: defaultdict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        shape = private.true_shape(parameter)
        rate = next((rates[start] for start in rates if name.startswith(start)), 1.0)
        groups[weight_decay if len(shape) > 1 else 0.0, rate].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, _RATE: rate}
        for (decay, rate), parameters in groups.items()
    ]
