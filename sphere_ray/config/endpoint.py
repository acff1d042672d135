"""Parameters of an OpenAI-compatible endpoint, and of how patiently it is asked."""

from typing import Annotated

from pydantic import Field

from sphere_ray.config.base import Placement, Settings


class EndpointSettings(Settings):
    """A model behind an OpenAI-compatible endpoint.

    `api_key_env` names the environment variable with the key. Answers are kept by content in
    `cache_dir`, a directory that every process that asks can see. A busy or failing endpoint is
    asked again `max_retries` times, with growing pauses.
    """

    base_url: Annotated[str, Placement] = Field(pattern=r"^https?://")
    model: str
    api_key_env: Annotated[str | None, Placement] = None
    timeout_s: Annotated[float, Placement] = Field(120.0, gt=0)
    max_retries: Annotated[int, Placement] = Field(4, ge=0)
    max_concurrent: Annotated[int, Placement] = Field(32, ge=1)
    requests_per_minute: Annotated[float | None, Placement] = Field(None, gt=0)
    cache_dir: Annotated[str | None, Placement] = None
