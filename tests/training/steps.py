"""A training step for tests that change what matters to them."""

from sphere_ray.training.messages import StepMetrics

STEP = StepMetrics(
    step=1,
    steps=100,
    epoch=0,
    loss=0.7,
    reward_accuracy=0.5,
    margin=0.0,
    chosen_logp=-1.0,
    rejected_logp=-1.0,
    chosen_shift=0.0,
    chosen_length=20.0,
    rejected_length=20.0,
    grad_norm=1.0,
    learning_rate=1e-6,
    tokens=100,
    computed=70,
    padding=0,
    seconds=1.0,
)
