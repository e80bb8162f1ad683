"""Faults of metrics, inference, checkpoints, optimisers and inputs."""

from mutation import Mutation

# Of what only runs show.
RUNS = ("tests/engine", "tests/verbs")

MUTATIONS = (
    Mutation(
        "engine-iou-union",
        "hits are counted twice in the union",
        "engine/metrics.py",
        (("union = truth + predicted - hits", "union = truth + predicted"),),
        first=("test_metrics",),
    ),
    Mutation(
        "engine-iou-absent",
        "classes that are absent everywhere count as 0 in the mean",
        "engine/metrics.py",
        (("return float(np.nanmean(values)) if", "return float(np.nan_to_num(values).mean()) if"),),
        first=("test_metrics",),
    ),
    Mutation(
        "engine-boundary-images",
        "boundary scores are divided by all images, not by those that have the class",
        "engine/boundary.py",
        (("scores = self.scores / self.images", "scores = self.scores / self.images.max(initial=0)"),),
        first=(
            "test_boundary.py::test_boundary_scores",
            "test_boundary",
        ),
    ),
    Mutation(
        "engine-window-mean",
        "overlapping windows are not divided by how many overlap",
        "engine/views.py",
        (("np.stack([1 / count[", "np.stack([1 / np.full_like(count, count.max())["),),
        first=(
            "test_inference.py::test_sliding",
            "test_inference",
        ),
    ),
    Mutation(
        "engine-window-gaps",
        "one window too few, so that strips stay empty",
        "engine/views.py",
        (("max(1, window * (1 - overlap))) + 1", "max(1, window * (1 - overlap))) + (overlap > 0)"),),
        first=(
            "test_inference.py::test_sliding",
            "test_inference",
        ),
    ),
    Mutation(
        "engine-flip-back",
        "the prediction of the mirror image is not mirrored back",
        "engine/inference.py",
        (("predict(variables, tiles[:, :, ::-1])[:, :, ::-1]", "predict(variables, tiles[:, :, ::-1])"),),
        first=(
            "test_inference.py::test_flip",
            "test_inference",
        ),
    ),
    Mutation(
        "engine-scales-mean",
        "several scales are added and not averaged",
        "engine/landing.py",
        (("sum(parts[1:], parts[0]) / len(parts)", "sum(parts[1:], parts[0])"),),
        first=(
            "test_inference.py::test_several_scales",
            "test_inference",
        ),
    ),
    Mutation(
        "engine-confusion-swapped",
        "truth and prediction are exchanged in the counts of the device",
        "engine/landing.py",
        (('_count(out["confusion"], known, labels)', '_count(out["confusion"], labels, known)'),),
        first=(
            "test_inference.py::test_counts",
            "test_inference",
        ),
    ),
    Mutation(
        "engine-resize-centres",
        "maps are resized with corners instead of centres of pixels in the same place",
        "ops/resizing.py",
        (("(2 * at + 1) * placed - size", "2 * at * placed"),),
        first=(
            "test_inference.py::test_maps",
            "test_inference",
        ),
    ),
    Mutation(
        "engine-rare-shapes",
        "an image of a rare shape holds all that come after it",
        "engine/inference.py",
        (("held = self._fill(jobs, batches=2)", "held = False"),),
        first=(
            "test_inference.py::test_a_rare_shape",
            "test_inference",
        ),
    ),
    Mutation(
        "engine-checkpoint-iterator",
        "a checkpoint does not hold where the data stood",
        "engine/checkpoints.py",
        (("ocp.args.JsonSave(dict(iterator))", "ocp.args.JsonSave({})"),),
        first=(
            "test_checkpoints.py::test_restored",
            "test_checkpoints",
        ),
    ),
    Mutation(
        "engine-checkpoint-preemption",
        "a save in the background asks JAX whether to stop, with its own, older step",
        "engine/checkpoints.py",
        (("        del step\n        return False", "        return super().reached_preemption(step)"),),
        first=(
            "test_checkpoints.py::test_saving_does_not_ask",
            "test_checkpoints",
        ),
    ),
    Mutation(
        "engine-checkpoint-best",
        "the worst checkpoint is kept as the best",
        "engine/checkpoints.py",
        (("return max(scored, key=", "return min(scored, key="),),
        first=(
            "test_checkpoints.py::test_best",
            "test_checkpoints",
        ),
    ),
    Mutation(
        "engine-checkpoint-metric",
        "the best checkpoint goes by mIoU, whatever is asked for",
        "engine/checkpoints.py",
        ((".get(self.metric, -1.0)", '.get("miou", -1.0)'),),
        first=(
            "test_checkpoints.py::test_best_follows",
            "test_checkpoints",
        ),
    ),
    Mutation(
        "engine-checkpoint-kept",
        "only the last checkpoint is kept",
        "engine/checkpoints.py",
        (("return {max(steps, default=None), self._best(steps)}", "return {max(steps, default=None)}"),),
        first=(
            "test_checkpoints.py::test_best_and_last",
            "test_checkpoints",
        ),
    ),
    Mutation(
        "engine-schedule-warmup",
        "the learning rate is not yet 0 at the last step",
        "engine/optimizers.py",
        (("rest = max(1, steps - config.warmup_steps)", "rest = max(1, steps)"),),
        first=("test_optimizers",),
    ),
    Mutation(
        "engine-decay-vectors",
        "vectors decay unless they are asked to",
        "engine/optimizers.py",
        (("None if config.decay_vectors else _matrices", "_matrices if config.decay_vectors else None"),),
        first=("test_optimizers",),
    ),
    Mutation(
        "engine-decay-order",
        "weight decay comes after the momentum of SGD",
        "engine/optimizers.py",
        (
            (
                "parts += [*decay, optax.trace(config.momentum, config.nesterov)]",
                "parts += [optax.trace(config.momentum, config.nesterov), *decay]",
            ),
        ),
        first=(
            "test_optimizers.py::test_sgd",
            "test_optimizers",
        ),
    ),
    Mutation(
        "engine-padding-pulls",
        "padding pulls in mean-field post-processing",
        "engine/postprocess.py",
        (
            (
                "where = np.pad(np.ones((height, width), bool), padding[:2])",
                "where = np.pad(np.ones((height, width), bool), padding[:2], constant_values=True)",
            ),
        ),
        first=(
            "test_postprocess.py::test_mean_field",
            "test_postprocess",
        ),
    ),
    Mutation(
        "engine-resume-iterator",
        "a resumed run begins with the first batch again",
        "engine/inputs.py",
        (('            self.batches.set_state(saved["position"])\n', ""),),
        first=(
            "test_train.py::test_resumed_run",
            "resume",
        ),
        tests=RUNS,
    ),
    Mutation(
        "engine-resume-offset",
        "a second resume forgets the fresh order of the first",
        "engine/inputs.py",
        (('self._restart(saved["offset"])', "self._restart(0)"),),
        first=(
            "test_train.py::test_every_resume",
            "resume",
        ),
        tests=RUNS,
    ),
    Mutation(
        "engine-resume-position",
        "a checkpoint stands before the batch that it was trained on",
        "engine/inputs.py",
        (
            (
                (
                    "        examples = next(self.batches)\n"
                    "        self.waited += time.perf_counter() - start\n"
                    '        position = {"position": self.batches.get_state(), "offset": self.offset, '
                    '"mixture": self.mixture}\n'
                ),
                (
                    '        position = {"position": self.batches.get_state(), "offset": self.offset, '
                    '"mixture": self.mixture}\n'
                    "        examples = next(self.batches)\n"
                    "        self.waited += time.perf_counter() - start\n"
                ),
            ),
        ),
        first=(
            "test_train.py::test_resumed_run",
            "resume",
        ),
        tests=RUNS,
    ),
)
