"""Faults of the losses."""

from mutation import Mutation

MUTATIONS = (
    Mutation(
        "losses-ce-ignore",
        "pixels with the ignore label count",
        "losses/cross_entropy.py",
        (
            (
                "counts = (labels != ignore_label) & (labels >= 0) & (labels < classes)",
                "counts = (labels >= 0) & (labels < classes)",
            ),
            (
                "losses/_inputs.py",
                "labelled = (labels != ignore_label) & (labels >= 0) & (labels < classes)",
                "labelled = (labels >= 0) & (labels < classes)",
            ),
        ),
        first=("test_cross_entropy",),
    ),
    Mutation(
        "losses-ce-where",
        "the mask is taken the other way round",
        "losses/cross_entropy.py",
        (
            ("counts &= where.astype(bool)", "counts &= ~where.astype(bool)"),
            (
                "losses/_inputs.py",
                'check_mask(name, f"{prefix}where", where, shape), given, 0.0)',
                'check_mask(name, f"{prefix}where", where, shape), 0.0, given)',
            ),
        ),
        first=("test_cross_entropy",),
    ),
    Mutation(
        "losses-ce-weights",
        "the weighted mean is divided by the count of pixels instead of their weights",
        "losses/cross_entropy.py",
        (
            (
                "return masked_mean(-picked, weights, axis_name)",
                "return masked_mean(-picked * weights, counts, axis_name)",
            ),
            (
                "    return reduced(value, weighed, reduction, axis_name)\n",
                "    return reduced(value * weighed, weighed > 0, reduction, axis_name)\n",
            ),
        ),
        first=("test_cross_entropy",),
    ),
    Mutation(
        "losses-mean-devices",
        "each device divides by its own count",
        "ops/reduce.py",
        (("total, count = jax.lax.psum((total, count), axis_name)", "total = jax.lax.pmean(total, axis_name)"),),
        first=("test_contract.py::test_loss_and_gradient_over_two_devices",),
    ),
    Mutation(
        "losses-mean-floor",
        "a mean of nothing is 0 / 0",
        "ops/reduce.py",
        (
            ("return total / jnp.maximum(count, 1.0)", "return total / count"),
            ("total / jnp.where(count > 0, count, 1.0)", "total / count"),
        ),
        first=("test_contract.py::test_a_batch_that_is_all_masked",),
    ),
    Mutation(
        "losses-tv-pairs",
        "a pair counts where its first pixel does, whatever the second",
        "losses/variation.py",
        (
            ("return here * there", "return here"),
            ("jnp.minimum(*_ends(weighed, dy, dx))", "_ends(weighed, dy, dx)[0]"),
        ),
        first=(
            "test_masked_out_pixels",
            "test_a_padded_and_masked",
        ),
    ),
    Mutation(
        "losses-tv-sign",
        "the gradient of total variation has the wrong sign",
        "losses/variation.py",
        (
            (
                ('gradient += _edges(signs, axis=axis, side="before") - _edges(signs, axis=axis, side="after")'),
                ('gradient += _edges(signs, axis=axis, side="after") - _edges(signs, axis=axis, side="before")'),
            ),
            (
                (
                    "        gradient += before[..., None] * jnp.sign(probs - moved(around, -dy, -dx))\n"
                    "        gradient -= cost[..., None]"
                ),
                (
                    "        gradient -= before[..., None] * jnp.sign(probs - moved(around, -dy, -dx))\n"
                    "        gradient += cost[..., None]"
                ),
            ),
        ),
        first=("test_the_gradient_equals_finite",),
    ),
    Mutation(
        "losses-tv-denominator",
        "total variation is divided by the pixels, not the pairs",
        "losses/variation.py",
        (
            (
                "return _mean(total, jnp.sum(down_pairs) + jnp.sum(right_pairs), axis_name)",
                "return _mean(total, jnp.sum(valid), axis_name)",
            ),
            ("return jnp.sum(_pairs(weighed, 1, 0)) + jnp.sum(_pairs(weighed, 0, 1))", "return jnp.sum(weighed)"),
        ),
        first=(
            "test_a_half_and_half",
            "test_variation",
        ),
    ),
    Mutation(
        "losses-tv-contrast",
        "boundaries are dear, not cheap, where the image changes",
        "losses/variation.py",
        (
            (
                "return jnp.exp(down / (-2 * contrast**2)), jnp.exp(right / (-2 * contrast**2))",
                "return jnp.exp(down / (2 * contrast**2)), jnp.exp(right / (2 * contrast**2))",
            ),
            ("jnp.exp(change / (-2.0 * jnp.square(contrast)))", "jnp.exp(change / (2.0 * jnp.square(contrast)))"),
        ),
        first=(
            "test_boundaries_are_cheap",
            "test_variation",
        ),
    ),
    Mutation(
        "losses-curvilinear-direction",
        "smooth across a line, free along it",
        "losses/variation.py",
        (
            (
                "tangent = 0.5 * jnp.arctan2(2.0 * yx, xx - yy) + 0.5 * math.pi",
                "tangent = 0.5 * jnp.arctan2(2.0 * yx, xx - yy)",
            ),
        ),
        first=(
            "test_lines_along_axes",
            "test_variation",
        ),
    ),
    Mutation(
        "losses-curvilinear-gradient",
        "no stop-gradient on the structure tensor",
        "losses/variation.py",
        (
            ("weights = lax.stop_gradient(weigh(lax.stop_gradient(probs), valid))", "weights = weigh(probs, valid)"),
            (
                ("costs = lax.stop_gradient(weigh(lax.stop_gradient(probs), weighed, lax.stop_gradient(sigma)))"),
                "costs = weigh(probs, weighed, sigma)",
            ),
        ),
        first=(
            "test_no_gradient_flows_through_the_direction",
            "test_variation",
        ),
    ),
    Mutation(
        "losses-crf-devices",
        "Gated CRF adds the sums over devices, but not the counts",
        "losses/crf.py",
        (
            ("total, count = lax.psum((total, count), axis_name)", "total = lax.psum(total, axis_name)"),
            (
                "    return divided(jnp.sum(total), count, reduction, axis_name)\n",
                (
                    "    total = jnp.sum(total) if axis_name is None else lax.psum(jnp.sum(total), axis_name)\n"
                    "    return divided(total, count, reduction, None)\n"
                ),
            ),
        ),
        first=("test_contract.py::test_loss_and_gradient_over_two_devices",),
    ),
    Mutation(
        "losses-crf-denominator",
        "Gated CRF is divided by the sources where there are targets",
        "losses/crf.py",
        (("counted = source if target is None else target", "counted = target if source is None else source"),),
        first=(
            "test_loss_and_gradient_are_those_of_the_restatement",
            "denominator",
            "test_crf",
        ),
    ),
    Mutation(
        "losses-crf-transposed",
        "the costs of pairs of classes are transposed",
        "losses/crf.py",
        (
            ('jnp.matmul(probs, matrix, precision="highest")', 'jnp.matmul(probs, matrix.T, precision="highest")'),
            (
                "jnp.matmul(probs, _normalized(compatibility, probs.shape[-1], probs.dtype),",
                "jnp.matmul(probs, _normalized(compatibility, probs.shape[-1], probs.dtype).T,",
            ),
        ),
        first=(
            "test_loss_and_gradient_are_those_of_the_restatement",
            "test_crf",
        ),
    ),
    Mutation(
        "losses-crf-border",
        "neighbours outside of the image are counted once too often",
        "losses/crf.py",
        (
            ("jnp.maximum(position - radius, 0) + 1", "jnp.maximum(position - radius, 0)"),
            ("jnp.maximum(position - window.radius, 0) + 1", "jnp.maximum(position - window.radius, 0)"),
        ),
        first=(
            "test_the_border_changes",
            "test_crf",
        ),
    ),
    Mutation(
        "losses-uncertainty-scale",
        "logits are divided by the variance and not by its root",
        "losses/uncertainty.py",
        (
            (
                "scale = 1.0 / jnp.sqrt(1.0 + (jnp.pi / 8.0) * safe_variance)",
                "scale = 1.0 / (1.0 + (jnp.pi / 8.0) * safe_variance)",
            ),
            (
                "scale = 1.0 / jnp.sqrt(1.0 + (jnp.pi / 8.0) * variance)",
                "scale = 1.0 / (1.0 + (jnp.pi / 8.0) * variance)",
            ),
        ),
        first=("test_uncertainty",),
    ),
    Mutation(
        "losses-uncertainty-candidates",
        "a pixel without a candidate loses its label",
        "losses/uncertainty.py",
        (
            (
                "allowed = jnp.where(jnp.any(candidates, axis=-1, keepdims=True), candidates, allowed)",
                "allowed = candidates",
            ),
        ),
        first=(
            "test_candidates_take",
            "test_uncertainty",
        ),
    ),
    Mutation(
        "losses-semi-threshold",
        "a confidence at the threshold is above it",
        "losses/adversarial.py",
        (
            ("kept = (confidence > threshold)", "kept = (confidence >= threshold)"),
            ("kept = (confidence.astype(dtype) > threshold)", "kept = (confidence.astype(dtype) >= threshold)"),
        ),
        first=(
            "test_adversarial.py::test_threshold",
            "test_adversarial",
        ),
    ),
    Mutation(
        "losses-discriminator-smoothing",
        "labels are smoothed on both sides",
        "losses/adversarial.py",
        (
            ('fake = _bce(name, "fake", fake_logits, 0.0,', 'fake = _bce(name, "fake", fake_logits, label_smoothing,'),
            ("fake = 0.5 * _bce(fake_logits, 0.0,", "fake = 0.5 * _bce(fake_logits, smoothing,"),
        ),
        first=("test_adversarial",),
    ),
    Mutation(
        "losses-weights-where",
        "weights are forgotten where there is a mask",
        "losses/_inputs.py",
        (
            (
                'check_mask(name, f"{prefix}where", where, shape), given, 0.0)',
                'check_mask(name, f"{prefix}where", where, shape), 1.0, 0.0)',
            ),
        ),
        first=(
            "weights",
            "test_contract",
        ),
    ),
    Mutation(
        "losses-label-smoothing",
        "smoothed labels add up to more than 1",
        "losses/cross_entropy.py",
        (("value = (1.0 - smoothing) * value -", "value = value -"),),
        first=(
            "smooth",
            "test_cross_entropy",
        ),
    ),
    Mutation(
        "losses-focal-right",
        "what is right counts most in the focal loss",
        "losses/cross_entropy.py",
        (
            ("-jnp.exp(gamma * log_rest) * log_prob", "-jnp.exp(gamma * log_prob) * log_prob"),
            ("jnp.exp(-gamma * jax.nn.softplus(-rest))", "jnp.exp(-gamma * jax.nn.softplus(rest))"),
        ),
        first=("focal",),
    ),
    Mutation(
        "losses-dice-absent",
        "classes that the labels do not have count in the mean",
        "losses/regions.py",
        (("there = (present > 0).astype(present.dtype)", "there = jnp.ones_like(present)"),),
        first=(
            "dice",
            "regions",
        ),
    ),
    Mutation(
        "losses-dice-tversky",
        "alpha and beta of Tversky's index are exchanged",
        "losses/regions.py",
        (
            (
                "price = alpha * weighed[..., None] * probs * (1.0 - target) + beta *",
                "price = beta * weighed[..., None] * probs * (1.0 - target) + alpha *",
            ),
        ),
        first=(
            "tversky",
            "dice",
            "regions",
        ),
    ),
    Mutation(
        "losses-dice-devices",
        "a pmean for a psum of what the classes hold",
        "losses/regions.py",
        (
            (
                "return total if axis_name is None else lax.psum(total, axis_name)",
                "return total if axis_name is None else lax.pmean(total, axis_name)",
            ),
        ),
        first=(
            "two_devices",
            "regions",
        ),
    ),
    Mutation(
        "losses-lovasz-order",
        "pixels are put in the order of rising errors",
        "losses/regions.py",
        (
            ("lax.sort((-rows[0], *rows[1:], place), num_keys=1)", "lax.sort((rows[0], *rows[1:], place), num_keys=1)"),
            ("lax.sort((-rows[0], place), num_keys=1)", "lax.sort((rows[0], place), num_keys=1)"),
        ),
        first=(
            "lovasz",
            "regions",
        ),
    ),
    Mutation(
        "losses-crf-weights",
        "weights of Gated CRF are not brought to a mean of 1",
        "losses/crf.py",
        (("return pull, count / jnp.where(sum_of_weights > 0, sum_of_weights, 1.0)", "return pull, None"),),
        first=(
            "weights",
            "test_crf",
        ),
    ),
)
