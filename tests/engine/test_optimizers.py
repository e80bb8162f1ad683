"""Schedules at known updates, and optimisers against arithmetic by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from semiseg_jax.engine.optimizers import Optimizer, make_optimizer, make_schedule

STEPS = 100
KERNEL = np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)
BIAS = np.array([1.0, -1.0], np.float32)
GRADS = [
    {"conv": {"kernel": KERNEL * scale + 0.1, "bias": BIAS * scale - 0.2}} for scale in (0.3, -0.1, 0.2)
]  # fmt: skip


def options(**changes):
    plain = {"schedule": "constant", "clip_norm": 0.0, "weight_decay": 0.0, "learning_rate": 0.1}
    return Optimizer(**plain | changes)


def params() -> dict:
    return {"conv": {"kernel": jnp.array(KERNEL), "bias": jnp.array(BIAS)}}


def run(config, grads=GRADS) -> dict:
    optimizer = make_optimizer(config, STEPS)
    now = params()
    state = optimizer.init(now)
    for grad in grads:
        updates, state = jax.jit(optimizer.update)(grad, state, now)
        now = optax.apply_updates(now, updates)
    return jax.tree.map(np.asarray, now)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 0, 1.0),
        ("constant", 99, 1.0),
        ("cosine", 0, 1.0),
        ("cosine", 50, 0.5),
        ("cosine", 25, (1 + np.cos(np.pi / 4)) / 2),
        ("cosine", 100, 0.0),
        ("cosine", 150, 0.0),
        ("poly", 0, 1.0),
        ("poly", 50, 0.5**0.9),
        ("poly", 99, 0.01**0.9),
        ("poly", 100, 0.0),
    ],
)
def test_schedule_without_warmup(schedule, step, expected):
    rate = make_schedule(options(schedule=schedule, learning_rate=1.0), STEPS)(step)
    assert float(rate) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.0),
        ("cosine", 10, 1.0),
        ("cosine", 20, 2.0),
        ("cosine", 60, 1.0),
        ("cosine", 100, 0.0),
        ("poly", 5, 0.5),
        ("poly", 60, 2 * 0.5**0.9),
        ("constant", 19, 1.9),
        ("constant", 20, 2.0),
    ],
)
def test_schedule_warms_up_linearly_and_then_decays_over_the_rest(schedule, step, expected):
    rate = make_schedule(options(schedule=schedule, learning_rate=2.0, warmup_steps=20), STEPS)(step)
    assert float(rate) == pytest.approx(expected, abs=1e-6)


def test_warmup_longer_than_the_run_does_not_fail():
    schedule = make_schedule(options(schedule="cosine", learning_rate=1.0, warmup_steps=200), STEPS)
    assert float(schedule(100)) == pytest.approx(0.5)


def sgd_by_hand(start, grads, rate, momentum, decay, nesterov):
    """torch.optim.SGD: decay joins the gradient, the buffer takes that, Nesterov looks one step ahead."""
    value, buffer = start.astype(np.float64), np.zeros_like(start, np.float64)
    for grad in grads:
        total = grad + decay * value
        buffer = momentum * buffer + total
        value = value - rate * (total + momentum * buffer if nesterov else buffer)
    return value


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_the_update_by_hand(momentum, decay, nesterov):
    given = {"momentum": momentum, "weight_decay": decay, "nesterov": nesterov}
    after = run(options(name="sgd", decay_vectors=True, **given))
    for name, start in (("kernel", KERNEL), ("bias", BIAS)):
        expected = sgd_by_hand(start, [g["conv"][name] for g in GRADS], 0.1, momentum, decay, nesterov)
        np.testing.assert_allclose(after["conv"][name], expected, rtol=1e-5, atol=1e-6)


def adamw_by_hand(start, grads, rate, decay):
    value, first, second = start.astype(np.float64), 0.0, 0.0
    for number, grad in enumerate(grads, 1):
        first = 0.9 * first + 0.1 * grad
        second = 0.999 * second + 0.001 * grad.astype(np.float64) ** 2
        update = (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-8)
        value = value - rate * (update + decay * value)
    return value


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adamw_equals_the_update_by_hand_with_decay_apart_from_the_moments(decay):
    after = run(options(name="adamw", weight_decay=decay))
    expected = adamw_by_hand(KERNEL, [g["conv"]["kernel"] for g in GRADS], 0.1, decay)
    np.testing.assert_allclose(after["conv"]["kernel"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_vectors_decay_only_on_request(name):
    nothing = [jax.tree.map(np.zeros_like, GRADS[0])]
    after = run(options(name=name, weight_decay=0.5), nothing)
    np.testing.assert_array_equal(after["conv"]["bias"], BIAS)
    np.testing.assert_allclose(after["conv"]["kernel"], 0.95 * KERNEL, rtol=1e-6)
    after = run(options(name=name, weight_decay=0.5, decay_vectors=True), nothing)
    np.testing.assert_allclose(after["conv"]["bias"], 0.95 * BIAS, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_multipliers_scale_the_updates_of_matching_paths(name):
    plain = run(options(name=name, weight_decay=0.1), GRADS[:1])
    scaled = run(options(name=name, weight_decay=0.1, multipliers=(("conv/bias", 10.0),)), GRADS[:1])
    np.testing.assert_array_equal(scaled["conv"]["kernel"], plain["conv"]["kernel"])
    np.testing.assert_allclose(scaled["conv"]["bias"] - BIAS, 10 * (plain["conv"]["bias"] - BIAS), rtol=1e-4)


def test_first_matching_pattern_wins():
    given = {"name": "sgd", "momentum": 0.0}
    plain = run(options(**given), GRADS[:1])
    after = run(options(multipliers=(("bias$", 2.0), ("^conv/.*", 10.0)), **given), GRADS[:1])
    for name, start, factor in (("kernel", KERNEL, 10), ("bias", BIAS, 2)):
        np.testing.assert_allclose(after["conv"][name] - start, factor * (plain["conv"][name] - start), rtol=1e-4)


def test_factor_zero_freezes():
    after = run(options(multipliers=(("kernel$", 0.0),)))
    np.testing.assert_array_equal(after["conv"]["kernel"], KERNEL)
    assert not np.array_equal(after["conv"]["bias"], BIAS)


def test_multiplier_that_matches_nothing_fails_naming_it_and_a_path():
    with pytest.raises(ValueError, match=r"no parameter matches 'decoder'; e\.g\. 'conv/bias' exists"):
        run(options(multipliers=(("decoder", 10.0),)))


def test_clipping_scales_large_gradients_to_the_norm_and_leaves_small_ones():
    small = [jax.tree.map(lambda g: g * 0.01, GRADS[0])]
    large = [jax.tree.map(lambda g: g * 1000, GRADS[0])]
    given = {"name": "sgd", "momentum": 0.0, "learning_rate": 1.0}
    moved = jax.tree.map(np.subtract, params(), run(options(clip_norm=0.5, **given), large))
    assert float(optax.tree.norm(moved)) == pytest.approx(0.5, rel=1e-4)
    unclipped, clipped = run(options(**given), small), run(options(clip_norm=0.5, **given), small)
    jax.tree.map(np.testing.assert_array_equal, clipped, unclipped)


def test_learning_rate_of_the_first_update_is_that_of_step_zero():
    after = run(options(name="sgd", momentum=0.0, warmup_steps=10), GRADS[:1])
    np.testing.assert_array_equal(after["conv"]["kernel"], KERNEL)


@pytest.mark.parametrize(("field", "known"), [("name", "adamw, sgd"), ("schedule", "cosine, poly, constant")])
def test_unknown_choice_fails_with_the_known_ones(field, known):
    with pytest.raises(ValueError, match=f"{field} is 'x'; known: {known}"):
        options(**{field: "x"})
