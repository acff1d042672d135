"""The base of every parameter class: frozen, and unknown keys are errors."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen group of parameters; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
