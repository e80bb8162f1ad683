"""Faults of training, evaluation and prediction."""

from mutation import Mutation

MUTATIONS = (
    Mutation(
        "verbs-finite-guard",
        "a step that is not finite changes the state",
        "verbs/train.py",
        (("jnp.where(finite, new, old)", "new"),),
        first=(
            "non_finite",
            "test_train.py::test_non_finite",
        ),
    ),
    Mutation(
        "verbs-save-position",
        "a checkpoint holds the place after the next batch",
        "verbs/train.py",
        (
            (
                "checkpoints.save(step, run.devices.to_global(state), position)",
                "checkpoints.save(step, run.devices.to_global(state), upcoming[1] if upcoming else position)",
            ),
        ),
        first=(
            "test_train.py::test_resumed_run",
            "resume",
        ),
    ),
    Mutation(
        "verbs-last-step",
        "the last step is neither saved nor scored where it is no multiple",
        "verbs/train.py",
        (
            (
                "verbs/stages.py",
                "return step % self.config.eval.every == 0 or step == self.config.steps",
                "return step % self.config.eval.every == 0",
            ),
        ),
        first=(
            "test_train.py::test_the_last_step",
            "test_train.py",
        ),
    ),
    Mutation(
        "verbs-signal-saves",
        "a signal stops the run without saving it",
        "verbs/train.py",
        (("saves = due or stopped_by or (", "saves = due or ("),),
        first=(
            "test_train.py::test_sigterm",
            "sigterm",
        ),
    ),
    Mutation(
        "verbs-goes-on-average",
        "a later round starts from the plain parameters",
        "verbs/train.py",
        (
            (
                "{name: network.averaged for name, network in state.networks.items()}",
                "{name: network.variables for name, network in state.networks.items()}",
            ),
        ),
        first=(
            "test_methods.py::test_a_later_round",
            "later",
        ),
    ),
    Mutation(
        "verbs-weak-masks",
        "masks of weak classes may choose the checkpoint",
        "verbs/stages.py",
        (('if row["id"] in trained]', 'if row["id"] in trained and False]'),),
        first=(
            "test_transfer_refuses_what_it_cannot_do[data.eval_split",
            "test_methods.py::test_transfer_refuses",
        ),
    ),
    Mutation(
        "verbs-other-config",
        "a workdir takes checkpoints of any config",
        "verbs/workdir.py",
        (("    if not changed:\n        return 0\n", "    if changed or not changed:\n        return 0\n"),),
        first=(
            "test_train.py::test_workdir_of_another_config",
            "another_config",
        ),
    ),
    Mutation(
        "verbs-lock",
        "two runs share a workdir",
        "verbs/workdir.py",
        (("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),),
        first=(
            "test_train.py::test_a_second_run",
            "second_run",
        ),
    ),
    Mutation(
        "verbs-checkpoint-asked",
        "the best checkpoint is read, whichever is asked for",
        "verbs/workdir.py",
        (("step = checkpoints.choose(checkpoint)", 'step = checkpoints.choose("best")'),),
        first=(
            "test_evaluate_predict.py::test_unknown_checkpoint",
            "checkpoint",
        ),
    ),
    Mutation(
        "verbs-read-average",
        "a run is read back without its averages",
        "verbs/workdir.py",
        (("method.eval_variables(state, settings.eval.weights)", 'method.eval_variables(state, "raw")'),),
        first=(
            "test_every_way_of_inference",
            "test_metrics_agree",
            "average",
        ),
    ),
    Mutation(
        "verbs-evaluate-boundary",
        "truth and prediction are exchanged where boundaries are compared",
        "verbs/evaluate.py",
        (
            (
                "from_model_output(found.truth, found.labels, classes)",
                "from_model_output(found.labels, found.truth, classes)",
            ),
        ),
        first=(
            "test_metrics_agree",
            "test_evaluate_predict",
        ),
    ),
    Mutation(
        "verbs-predict-names",
        "inputs of the same name overwrite each other",
        "verbs/predict.py",
        (("while stem in used:", "while False:"),),
        first=(
            "test_evaluate_predict.py::test_inputs_of_the_same_name",
            "same_name",
        ),
    ),
    Mutation(
        "verbs-predict-failed",
        "after a file that failed, predictions go to the wrong names",
        "verbs/predict.py",
        (
            (
                ('                failed.append({"file": name, "error": str(error)})\n                continue\n'),
                (
                    '                failed.append({"file": name, "error": str(error)})\n'
                    "                read.append((name, np.zeros((1, 1, 3), np.uint8)))\n"
                    "                continue\n"
                ),
            ),
        ),
        first=(
            "test_evaluate_predict.py::test_unreadable",
            "unreadable",
        ),
    ),
)
