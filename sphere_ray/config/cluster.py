"""How work is spread over a cluster, and how the run meets Ray; none of it decides a result."""

from pydantic import Field

from sphere_ray.config.base import Settings


class RolloutSettings(Settings):
    """How problems stream.

    A batch is the unit of commit; `batches_in_flight` of them are worked on at once per stage.
    `problem_timeout_s` fails a row; more failed rows than `max_failed_share` fail the run.
    """

    batch_size: int = Field(4, ge=1)
    batches_in_flight: int = Field(8, ge=1)
    stage_actors: int = Field(1, ge=1)
    problem_timeout_s: float = Field(3600.0, gt=0)
    max_failed_share: float = Field(0.05, ge=0, le=1)


class RayPlacement(Settings):
    """How the run meets Ray.

    `address: local` starts Ray here; `auto` joins the cluster that runs the job. A cluster that the
    run does not fit in may grow for `wait_minutes`, then it is refused. `vllm_metrics` lets Ray
    export vLLM's own metrics (`ray_vllm_*`) beside ours, for some time in every step of an engine.
    """

    address: str = "auto"
    wait_minutes: float = Field(0.0, ge=0)
    num_cpus: int | None = Field(None, ge=1)
    object_store_gib: float | None = Field(None, gt=0)
    dashboard: bool = True
    vllm_metrics: bool = False
