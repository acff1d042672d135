import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sphere_ray.config.training import LossSettings
from sphere_ray.method.preference import (
    LossInputs,
    preference_loss,
    sequence_logps,
    token_logps,
)

LOSSES = [
    LossSettings(kind="sigmoid"),
    LossSettings(kind="sigmoid", beta=0.3, nll_weight=0.7),
    LossSettings(kind="sigmoid", positive_weight=5.0),
    LossSettings(kind="sigmoid_norm", beta=5.0),
    LossSettings(kind="sigmoid_norm", beta=2.0, positive_weight=1.5, nll_weight=0.2),
    LossSettings(kind="ipo", beta=0.4),
    LossSettings(kind="robust", label_smoothing=0.1),
    LossSettings(kind="robust", label_smoothing=0.3, beta=0.5, nll_weight=1.0),
]
NAMES = [repr(loss) for loss in LOSSES]

nats = st.floats(-80.0, -0.5)
lengths = st.integers(1, 40)


@st.composite
def sequences(draw: st.DrawFn) -> dict[str, float]:
    return {
        "chosen": draw(nats),
        "rejected": draw(nats),
        "reference_chosen": draw(nats),
        "reference_rejected": draw(nats),
        "chosen_length": draw(lengths),
        "rejected_length": draw(lengths),
    }


def as_inputs(values: dict[str, Any]) -> LossInputs:
    return LossInputs(
        **{f"{name}_b": torch.as_tensor(v, dtype=torch.float64) for name, v in values.items()}
    )


def independent_loss(values: dict[str, float], loss: LossSettings) -> float:
    """The formulas written out with numpy, from the papers."""
    win = np.float64(values["chosen"]) - values["reference_chosen"]
    lose = np.float64(values["rejected"]) - values["reference_rejected"]
    if loss.kind in {"sigmoid_norm", "ipo"}:
        win, lose = win / values["chosen_length"], lose / values["rejected_length"]
    difference = win - lose - loss.positive_weight * max(0.0, -win)
    softplus = np.logaddexp
    if loss.kind == "ipo":
        value = (difference - 0.5 / loss.beta) ** 2
    else:
        right = softplus(0.0, -loss.beta * difference)
        wrong = softplus(0.0, loss.beta * difference)
        e = loss.label_smoothing
        value = ((1 - e) * right - e * wrong) / (1 - 2 * e)
    return float(value - loss.nll_weight * values["chosen"] / values["chosen_length"])


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@settings(deadline=None, max_examples=50)
@given(values=sequences())
def test_loss_and_gradient_match_an_independent_implementation(
    loss: LossSettings, values: dict[str, float]
) -> None:
    inputs = as_inputs({name: [value] for name, value in values.items()})
    policy = (inputs.chosen_b.requires_grad_(), inputs.rejected_b.requires_grad_())

    computed = preference_loss(inputs, loss).loss_b
    gradients = torch.autograd.grad(computed.sum(), policy)

    assert computed.item() == pytest.approx(independent_loss(values, loss), rel=1e-9, abs=1e-9)
    at_kink = abs(values["chosen"] - values["reference_chosen"]) < 1e-4
    for name, gradient in zip(("chosen", "rejected"), gradients, strict=True):
        if loss.positive_weight and at_kink:
            continue
        step = 1e-5
        above = independent_loss(values | {name: values[name] + step}, loss)
        below = independent_loss(values | {name: values[name] - step}, loss)
        assert gradient.item() == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if not (loss.nll_weight or loss.positive_weight)], ids=repr
)
def test_same_loss_as_trl(loss: LossSettings) -> None:
    trl = pytest.importorskip("trl.trainer.dpo_trainer")
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0]])
    logps = -torch.rand(4, 4, generator=generator, dtype=torch.float64) * mask[:, 1:]
    reference = -torch.rand(4, generator=generator, dtype=torch.float64)
    outputs = SimpleNamespace(
        log_probs=logps,
        entropy=torch.zeros(4, 4),
        mean_logits=torch.zeros(4, 4),
        is_top1=torch.zeros(4, 4, dtype=torch.bool),
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x
        ),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        use_weighting=False,
        f_divergence_type="reverse_kl",
        loss_types=[loss.kind],
        loss_weights=[1.0],
        beta=loss.beta,
        label_smoothing=loss.label_smoothing,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    batch = {
        "input_ids": torch.ones(4, 5, dtype=torch.long),
        "attention_mask": torch.ones(4, 5, dtype=torch.long),
        "completion_mask": mask,
        "ref_chosen_logps": reference[:2],
        "ref_rejected_logps": reference[2:],
    }
    expected = trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, batch, False)

    chosen, rejected = sequence_logps(logps, mask[:, 1:].bool()).chunk(2)
    chosen_length, rejected_length = mask.sum(dim=1).chunk(2)
    ours = preference_loss(
        LossInputs(
            chosen_b=chosen,
            rejected_b=rejected,
            reference_chosen_b=reference[:2],
            reference_rejected_b=reference[2:],
            chosen_length_b=chosen_length,
            rejected_length_b=rejected_length,
        ),
        loss,
    )
    assert ours.loss_b.mean().item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("kind", ["sigmoid", "sigmoid_norm", "robust"])
@given(chosen=nats, rejected=nats)
def test_loss_is_log_2_where_policy_and_reference_agree(
    kind: Any, chosen: float, rejected: float
) -> None:
    loss = LossSettings(kind=kind, label_smoothing=0.2 if kind == "robust" else 0.0)
    outputs = preference_loss(
        as_inputs(
            {
                "chosen": [chosen],
                "rejected": [rejected],
                "reference_chosen": [chosen],
                "reference_rejected": [rejected],
                "chosen_length": [3],
                "rejected_length": [5],
            }
        ),
        loss,
    )
    assert outputs.loss_b.item() == pytest.approx(math.log(2))
    assert outputs.chosen_reward_b.item() == outputs.rejected_reward_b.item() == 0


@given(values=sequences(), shift=st.floats(-20, 20))
def test_sigmoid_ignores_a_common_shift_of_both_sides(
    values: dict[str, float], shift: float
) -> None:
    shifted = values | {name: values[name] + shift for name in ("chosen", "rejected")}
    before = preference_loss(as_inputs({k: [v] for k, v in values.items()}), LOSSES[0])
    after = preference_loss(as_inputs({k: [v] for k, v in shifted.items()}), LOSSES[0])
    assert before.loss_b.item() == pytest.approx(after.loss_b.item(), abs=1e-9)


@pytest.mark.parametrize("kind", ["sigmoid", "sigmoid_norm"])
@given(values=sequences())
def test_descent_raises_the_chosen_and_lowers_the_rejected_side(
    kind: Any, values: dict[str, float]
) -> None:
    inputs = as_inputs({name: [value] for name, value in values.items()})
    policy = (inputs.chosen_b.requires_grad_(), inputs.rejected_b.requires_grad_())
    loss = preference_loss(inputs, LossSettings(kind=kind)).loss_b
    chosen, rejected = torch.autograd.grad(loss.sum(), policy)
    assert chosen.item() < 0 < rejected.item()


def logits_and_ids(dtype: torch.dtype = torch.float64, positions: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(3, positions, 11, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(11, (3, positions), generator=generator)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_token_logps_and_their_gradient_match_log_softmax(chunk: int) -> None:
    logits, ids = logits_and_ids()
    logits.requires_grad_()
    expected = torch.log_softmax(logits, dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    upstream = torch.linspace(-1, 2, ids.numel(), dtype=torch.float64).view_as(ids)

    ours = token_logps(logits, ids, chunk)

    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad((ours * upstream).sum(), logits),
        torch.autograd.grad((expected * upstream).sum(), logits),
    )


def test_token_logps_of_bf16_logits_are_computed_in_float32() -> None:
    logits, ids = logits_and_ids(torch.bfloat16)
    logits.requires_grad_()
    exact = torch.log_softmax(logits.detach().double(), dim=-1)
    expected = exact.gather(-1, ids.unsqueeze(-1)).squeeze(-1)

    ours = token_logps(logits, ids)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)

    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-5)
    assert gradient.dtype == torch.bfloat16
    one_hot = torch.nn.functional.one_hot(ids, 11)
    torch.testing.assert_close(gradient.double(), one_hot - exact.exp(), rtol=1e-2, atol=1e-3)


@given(shift=st.floats(-50, 50))
def test_token_logps_ignore_a_shift_of_all_logits(shift: float) -> None:
    logits, ids = logits_and_ids()
    torch.testing.assert_close(token_logps(logits + shift, ids), token_logps(logits, ids))


@given(padding=st.integers(0, 6), filler=st.sampled_from([0.0, -1e9, math.nan, -math.inf]))
def test_padding_never_changes_a_sum(padding: int, filler: float) -> None:
    logps = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    padded = torch.cat([logps, torch.full((1, padding), filler)], dim=1)
    mask = torch.arange(3 + padding).unsqueeze(0) < 3

    total = sequence_logps(padded, mask)
    (gradient,) = torch.autograd.grad(total.sum(), logps)

    assert total.item() == -3.5
    assert gradient.tolist() == [[1.0, 1.0, 1.0]]
