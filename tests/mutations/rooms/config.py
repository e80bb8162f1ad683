"""Faults of the config and the command line."""

from mutation import Mutation

MUTATIONS = (
    Mutation(
        "config-free-fields",
        "a run may go on with another optimiser",
        "config.py",
        (('FREE_FIELDS = ("log", "eval",', 'FREE_FIELDS = ("optimizer", "log", "eval",'),),
        first=("differences",),
    ),
    Mutation(
        "config-json-tuples",
        "tuples come back from JSON as lists",
        "config.py",
        (
            (
                "return tuple(map(_tuples, value)) if isinstance(value, list) else value",
                "return list(map(_tuples, value)) if isinstance(value, list) else value",
            ),
        ),
        first=("json",),
    ),
    Mutation(
        "config-json-quota",
        "a stored quota is added to the default one",
        "config.py",
        (("_set(config, field, ConfigDict(_get(stored, field)))", "_get(config, field).update(_get(stored, field))"),),
        first=("json",),
    ),
    Mutation(
        "config-differences",
        "old and new values are exchanged in what differs",
        "config.py",
        (
            (
                'path: (before.get(path, "absent"), after.get(path, "absent"))',
                'path: (after.get(path, "absent"), before.get(path, "absent"))',
            ),
        ),
        first=("differences",),
    ),
    Mutation(
        "config-range",
        "ema may be 1",
        "options.py",
        ((" or number == below:", ":"),),
        first=("out_of_range",),
    ),
    Mutation(
        "config-bool",
        "True passes as a number",
        "options.py",
        (
            (
                "elif isinstance(value, bool) is not (kind is bool):",
                "elif kind is bool and not isinstance(value, bool):",
            ),
        ),
        first=("wrong_type",),
    ),
    Mutation(
        "config-method-fields",
        "another method forgets the fields that all methods share",
        "config.py",
        (("if path in now and path not in (", "if path not in ("), ("_set(changed, path, value)", "pass")),
        first=("another_method",),
    ),
    Mutation(
        "config-old-starts",
        "a start that was a number of steps becomes the whole run",
        "config.py",
        (("value = min(value / steps, 1.0)", "value = 1.0"),),
        first=("from_before",),
    ),
    Mutation(
        "config-settings-disagree",
        "of two settings that disagree, the first wins silently",
        "presets.py",
        (("if values.setdefault(path, value) != value:", "if values.setdefault(path, value) is None:"),),
        first=("disagree",),
    ),
    Mutation(
        "config-shared-rows",
        "the rows of a shared batch add up to one too many",
        "presets.py",
        (("(place < batch % len(kinds))", "(place <= batch % len(kinds))"),),
        first=(
            "share",
            "labels",
            "test_config_files",
        ),
    ),
    Mutation(
        "config-half-masks",
        "the odd row of a half-labelled batch has a mask",
        "presets.py",
        (('{"dense": batch // 2, others: batch - batch // 2}', '{"dense": batch - batch // 2, others: batch // 2}'),),
        first=("test_config_files",),
    ),
    Mutation(
        "config-crf-start",
        "Gated CRF of the paper starts at update 5",
        "configs/gated_crf.py",
        (('"terms.gated_crf.start": 0.005', '"terms.gated_crf.start": 0.5'),),
        first=(
            "test_config_files.py::test_settings_of_papers",
            "test_config_files",
        ),
    ),
    Mutation(
        "config-cli-signal",
        "a training that a signal stopped exits with the signal's number",
        "cli.py",
        (("return 128 + stopped_by if stopped_by else 0", "return stopped_by"),),
        first=("stopped_training",),
    ),
    Mutation(
        "config-cli-failed",
        "predict ends well though an image failed",
        "cli.py",
        (
            (
                'exported=values.model, **run)\n    return int(bool(summary["failed"]))',
                "exported=values.model, **run)\n    return 0",
            ),
        ),
        first=("predict_fails",),
    ),
    Mutation(
        "config-cli-checkpoint",
        "evaluate drops the checkpoint that was asked for",
        "cli.py",
        (("        checkpoint=values.checkpoint,\n        split=values.split,\n", "        split=values.split,\n"),),
        first=("evaluate_passes",),
    ),
)
