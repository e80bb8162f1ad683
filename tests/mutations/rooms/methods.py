"""Faults of the methods and their terms."""

from mutation import Mutation

MUTATIONS = (
    Mutation(
        "methods-ema-decay",
        "the decay of the averaged parameters is the other way round",
        "methods/base.py",
        (
            (
                "optax.incremental_update(params, network.ema, 1 - decay)",
                "optax.incremental_update(params, network.ema, decay)",
            ),
        ),
        first=("test_average_follows",),
    ),
    Mutation(
        "methods-loss-psum",
        "a sum for the mean of the gradients",
        "engine/shards.py",
        (("total.astype(grad.dtype) / jax.lax.axis_size(AXIS)", "total.astype(grad.dtype)"),),
        first=(
            "test_two_devices_with_unequal_masks",
            "test_gradients_equal_those",
            "test_devices_and_mappers",
        ),
    ),
    Mutation(
        "methods-accumulate",
        "gradients of micro-batches are added and not averaged",
        "methods/base.py",
        (("jax.tree.map(lambda x: x / len(rows[1]), total)", "total"),),
        first=(
            "test_accumulated_gradients",
            "accumul",
        ),
    ),
    Mutation(
        "methods-schedule-step",
        "a term starts one step late",
        "methods/base.py",
        (("into = step + 1 - start * steps", "into = step - start * steps"),),
        first=(
            "test_weight_is_zero_before",
            "test_without_start",
            "from_its_start",
        ),
    ),
    Mutation(
        "methods-average-unused",
        "evaluation runs the plain parameters where there is an average",
        "methods/segmentation.py",
        (
            (
                'return network.variables if weights == "raw" else network.averaged',
                'return network.averaged if weights == "raw" else network.variables',
            ),
        ),
        first=(
            "test_evaluation_uses_the_average",
            "average",
        ),
    ),
    Mutation(
        "methods-passes-order",
        "two passes are put together in the wrong order",
        "methods/segmentation.py",
        (("jnp.concatenate(parts), masked, others)", "jnp.concatenate(parts), others, masked)"),),
        first=(
            "test_separate_passes",
            "passes",
        ),
    ),
    Mutation(
        "methods-padding-counts",
        "padding counts in every term",
        "methods/terms/base.py",
        (
            (
                'return self.batch["valid"] & chosen[:, None, None]',
                'return jnp.ones_like(self.batch["valid"]) & chosen[:, None, None]',
            ),
        ),
        first=(
            "test_labels_outside_valid",
            "padding",
            "test_rows_of_a_kind",
        ),
    ),
    Mutation(
        "methods-images-mean",
        "images without a label dilute the mean over images",
        "methods/terms/cross_entropy.py",
        (("jnp.any((label != IGNORE) & where, axis=(1, 2)), AXIS)", "jnp.ones(len(label), bool), AXIS)"),),
        first=(
            "test_averaging_over_images",
            "images",
        ),
    ),
    Mutation(
        "methods-made-twice",
        "made labels count in their own term and in cross-entropy",
        "methods/terms/cross_entropy.py",
        (("(self.kinds or ALL).difference(*taking.values())", "self.kinds or ALL"),),
        first=(
            "test_made_labels_have",
            "test_a_cross_entropy_of_made",
            "made",
        ),
    ),
    Mutation(
        "methods-crf-sources",
        "all pixels pull where only labelled ones should",
        "methods/terms/gated_crf.py",
        (("source_mask=sources,", "source_mask=where,"),),
        first=(
            "test_labels_alone_pull",
            "test_sources_that",
            "gated_crf",
        ),
    ),
    Mutation(
        "methods-tags-unknown",
        "unknown tags count as absent",
        "methods/terms/absent_tags.py",
        (('absent = (seen.batch["tags"] == 0)', 'absent = (seen.batch["tags"] != 1)'),),
        first=(
            "test_a_class_that_tags",
            "tags",
        ),
    ),
    Mutation(
        "methods-adversarial-d-learns",
        "no stop-gradient: what the segmenter is told changes the discriminator",
        "methods/adversarial.py",
        (
            (
                'self._judge(lax.stop_gradient(params["discriminator"]), maps, batch)',
                'self._judge(params["discriminator"], maps, batch)',
            ),
        ),
        first=(
            "test_nothing_of_the_segmenters_loss",
            "test_adversarial_method",
        ),
    ),
    Mutation(
        "methods-adversarial-s-learns",
        "no stop-gradient: the loss of the discriminator changes the segmenter",
        "methods/adversarial.py",
        (("fake_maps = lax.stop_gradient(maps)", "fake_maps = maps"),),
        first=(
            "test_nothing_of_the_discriminators_loss",
            "test_adversarial_method",
        ),
    ),
    Mutation(
        "methods-adversarial-void",
        "void pixels of true maps teach the discriminator",
        "methods/adversarial.py",
        (
            (
                'is_real = real["valid"] & (real["label"] != IGNORE) & (real["kind"]',
                'is_real = real["valid"] & (real["kind"]',
            ),
        ),
        first=(
            "test_the_real_stream",
            "test_adversarial_method",
        ),
    ),
    Mutation(
        "methods-adversarial-semi",
        "self-training runs on labelled pixels",
        "methods/adversarial.py",
        (("where=unlabelled & ~has_label,", "where=labelled,"),),
        first=(
            "test_self_training",
            "test_each_term",
            "test_adversarial_method",
        ),
    ),
    Mutation(
        "methods-boxes-crowd",
        "regions to ignore are background",
        "methods/terms/boxes.py",
        (("where & ~covered & ~left_out\n", "where & ~covered\n"),),
        first=(
            "test_ignore_regions",
            "test_boxes",
        ),
    ),
    Mutation(
        "methods-boxes-mean",
        "no stop-gradient: boxes teach the mean from the first step",
        "methods/terms/boxes.py",
        (("self.steps, mean, lax.stop_gradient(mean))", "self.steps, mean, mean)"),),
        first=(
            "test_at_first_only",
            "test_boxes",
        ),
    ),
    Mutation(
        "methods-boxes-flip",
        "labels of low variance are declared wrong",
        "methods/terms/boxes.py",
        (
            (
                "flipped = corrected & (variance > options.bootstrap_variance)",
                "flipped = corrected & (variance < options.bootstrap_variance)",
            ),
        ),
        first=(
            "test_bootstrapping_flips",
            "test_boxes",
        ),
    ),
    Mutation(
        "methods-teacher",
        "the student is its own teacher",
        "methods/mean_teacher.py",
        (('teacher=state.networks["segmenter"].averaged', 'teacher=state.networks["segmenter"].variables'),),
        first=(
            "test_the_teacher_follows",
            "teacher",
        ),
    ),
    Mutation(
        "methods-cutmix-valid",
        "the valid pixels of a mixed image are those of one of its parts",
        "methods/mean_teacher.py",
        (('valid = views.cutmix(unlabelled["valid"], boxes)', 'valid = unlabelled["valid"]'),),
        first=("test_consistency",),
    ),
    Mutation(
        "methods-unimatch-share",
        "consistency is a mean over the kept pixels only",
        "methods/unimatch.py",
        (("return loss * masked_mean(labels != IGNORE, valid, AXIS)", "return loss"),),
        first=(
            "unimatch",
            "test_consistency_counts",
            "test_nothing_is_taught",
            "test_consistency",
        ),
    ),
    Mutation(
        "methods-views-salt",
        "two strong views are the same",
        "methods/views.py",
        (("jax.random.fold_in(jax.random.key(seed), salt)", "jax.random.fold_in(jax.random.key(seed), 0)"),),
        first=(
            "test_strong_views",
            "views",
        ),
    ),
    Mutation(
        "methods-transfer-tags",
        "unknown tags count as absent in the classifier",
        "methods/transfer.py",
        (
            (
                'known = (batch["tags"] >= 0) & (jnp.arange(logits.shape[-1]) > 0)',
                'known = (batch["tags"] >= -1) & (jnp.arange(logits.shape[-1]) > 0)',
            ),
        ),
        first=(
            "test_the_classifier_learns_from_known",
            "test_transfer",
        ),
    ),
    Mutation(
        "methods-transfer-objects",
        "the object map favours the background",
        "methods/label_transfer.py",
        (("1 - things, things)", "things, 1 - things)"),),
        first=(
            "test_labels_name",
            "test_transfer",
        ),
    ),
    Mutation(
        "methods-transfer-reach",
        "neighbours of a superpixel are one step farther than asked for",
        "methods/label_graph.py",
        (("range(graph.reach - 1)", "range(graph.reach)"),),
        first=("test_superpixels_are_neighbours",),
    ),
)
