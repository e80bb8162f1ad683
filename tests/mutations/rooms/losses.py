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
        ),
        first=("test_cross_entropy",),
    ),
    Mutation(
        "losses-ce-where",
        "the mask is taken the other way round",
        "losses/cross_entropy.py",
        (("counts &= where.astype(bool)", "counts &= ~where.astype(bool)"),),
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
        (("return here * there", "return here"),),
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
        (("weights = lax.stop_gradient(weigh(lax.stop_gradient(probs), valid))", "weights = weigh(probs, valid)"),),
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
            "test_crf_properties",
            "test_what_neither",
            "test_loss_and_gradient_are_those_of_the_restatement",
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
        (("kept = (confidence > threshold)", "kept = (confidence >= threshold)"),),
        first=(
            "test_adversarial.py::test_threshold",
            "test_adversarial",
        ),
    ),
    Mutation(
        "losses-discriminator-smoothing",
        "labels are smoothed on both sides",
        "losses/adversarial.py",
        (('fake = _bce(name, "fake", fake_logits, 0.0,', 'fake = _bce(name, "fake", fake_logits, label_smoothing,'),),
        first=("test_adversarial",),
    ),
)
