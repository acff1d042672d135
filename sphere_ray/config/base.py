"""The base of every parameter class: frozen, and unknown keys are errors."""

from pydantic import BaseModel, ConfigDict


class Placement:
    """Marks a field that says where, how fast or how patiently work is done, never what comes out.

    Write `workers: Annotated[int, Placement] = 2`. Results stay valid when such a field changes.
    """


class Settings(BaseModel):
    """A frozen group of parameters; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
