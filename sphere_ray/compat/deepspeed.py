"""What leans on private names of DeepSpeed; each use says what happens where a name is gone."""

import gc
import logging
from typing import Any

import deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero import parameter_offload
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
from torch import nn

from sphere_ray.compat.names import doubts

logger = logging.getLogger(__name__)

TESTED = "0.19.8"

_OPS, _STACK, _SHAPE = "__compatible_ops__", "FWD_MODULE_STACK", "ds_shape"


def found_doubts() -> list[str]:
    """Whether another version is installed, or a name that we can do without is gone."""
    return doubts(["deepspeed"], TESTED, [(deepspeed.ops, _OPS), (parameter_offload, _STACK)])


def warn_if_untested() -> None:
    """Log a warning if there are doubts."""
    if found := found_doubts():
        logger.warning("DeepSpeed is not as tested: %s", "; ".join(found))


def zero3_faults(engine: Any) -> list[str]:
    """Why a ZeRO-3 engine cannot be trained: without these names its weights would be wrong."""
    if all(hasattr(parameter, _SHAPE) for parameter in engine.module.parameters()):
        return []
    return [f"its parameters have no {_SHAPE}"]


def skip_shared_memory_build() -> None:
    """Keep DeepSpeed from compiling a CPU extension that only its inference uses.

    Where the name is gone, the first run compiles for about a minute.
    """
    ops = getattr(deepspeed.ops, _OPS, None)
    if ops is not None:
        ops["deepspeed_shm_comm"] = False


def true_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of a parameter; ZeRO-3 empties the parameter and keeps its shape aside."""
    return tuple(getattr(parameter, _SHAPE, parameter.shape))


def forget_models() -> None:
    """Let go of the models that DeepSpeed sharded and nobody uses any more.

    No engine's end empties DeepSpeed's list of modules, nor the cache of a method of the ZeRO-3
    coordinator, which holds the coordinator and its modules. Where those names are gone, models
    may stay in memory.
    """
    getattr(parameter_offload, _STACK, []).clear()
    for method in vars(PartitionedParameterCoordinator).values():
        # The cache is within a decorator's closure.
        for cell in getattr(method, "__closure__", None) or ():
            getattr(cell.cell_contents, "cache_clear", lambda: None)()
    gc.collect()
    get_accelerator().empty_cache()
