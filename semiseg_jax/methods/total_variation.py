"""`total_variation`: few random pixels, and predictions that are piecewise smooth (Javanmardi et al., 1605.01368).

    P = softmax(S(x))                                                    at full resolution
    L = CE(P, y; labelled pixels) + lambda(t) TV(P; all valid pixels)

lambda is `terms.total_variation.weight`, 0 at first and then growing (`start`, `ramp`): a constant prediction is a
minimum of TV, so the network must know something before it counts. `norm` picks the anisotropic (l1), isotropic (l2) or
curvilinear form. The paper's rival, a Markov random field after training, is `semiseg evaluate --post=mrf`.

Gradients find poor minima of such a loss. With `rounds.number` above 1 it is then lowered in turns (Marin et
al., Beyond Gradient Descent for Regularized Segmentation Losses, CVPR 2019), of which each is a stage:

    Y = argmin_Y sum_i -log P_i(Y_i) + beta sum_ij w_ij [Y_i != Y_j],    a graph cut, in each training image,
        where Y_i = y_i at labelled pixels
    L = CE(P, y; labelled pixels, Y; all others)                         the same network goes on

The sum over pairs is the total variation of Y: with such rounds, lambda may be 0. With `cut.color` a second cut
adds what a pixel's colour costs among the colours of each class in the first (Lin et al., ScribbleSup, CVPR 2016).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from semiseg_jax.data.types import Batch, Supervision
from semiseg_jax.engine import postprocess
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.engine.made_scores import LABEL_MADE
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import base, made_labels
from semiseg_jax.methods.segmentation import Segmentation
from semiseg_jax.methods.terms import Pictures
from semiseg_jax.ops.mrf import check_package
from semiseg_jax.options import Options, option

CUT_SECONDS = 2e-6  # a pixel and class: what a cut takes of a core


@dataclasses.dataclass(frozen=True)
class RoundCut(postprocess.Cut):
    beta: float = option(30.0, "what a boundary between two pixels costs", low=0)


@dataclasses.dataclass(frozen=True)
class Rounds(Options):
    """Rounds of training, with labels by graph cuts between them."""

    number: int = option(1, "2 or more: the same network goes on from labels that graph cuts make", low=1)
    steps: int = option(0, "of each later round; 0 = half of the steps", low=0)
    cut: RoundCut = RoundCut()


class TotalVariation(Segmentation):
    sections: ClassVar[Mapping[str, type[Options]]] = {"rounds": Rounds}

    def __init__(self, config: Settings, num_classes: int):
        self.rounds: Rounds = config.own["rounds"]
        self.needs = ("cross_entropy",) if self.rounds.number > 1 else ("cross_entropy", "total_variation")
        super().__init__(config, num_classes)
        if self.rounds.number > 1 and config.data.made_labels:
            raise ValueError("rounds.number above 1 makes its own labels; data.made_labels must be empty")
        self.cut_kinds = [kind for kind in self.quota if kind != Supervision.DENSE]
        if self.rounds.number > 1 and not self.cut_kinds:
            raise ValueError(
                f"rounds.number above 1 labels images without a mask, but data.quota is {config.data.quota}"
            )

    def stages(self) -> Sequence[base.Stage]:
        stages = list(super().stages())
        for number in range(2, self.rounds.number + 1):
            labels, before = f"{made_labels.LABELS}_{number}", stages[-1]
            stages[-1] = dataclasses.replace(before, finish=Cut(self, before.name, labels), makes=labels)
            (later,) = FromCuts(self._later_config(labels), self.num_classes).stages()
            stages.append(dataclasses.replace(later, name=f"{later.name}_{number}", warm_start=True))
        return stages

    def _later_config(self, labels: str) -> Settings:
        """Without the term, which the labels of the cuts stand for, and in its own number of steps."""
        config = self.config
        term = dataclasses.replace(config.terms["total_variation"], weight=0.0)
        kinds = tuple(kind.name.lower() for kind in self.cut_kinds)
        return config.replace(
            steps=self.rounds.steps or (config.steps + 1) // 2,
            terms={**config.terms, "total_variation": term},
            data={"made_labels": labels, "made_for": kinds},
        )

    def check(self) -> None:
        if self.rounds.number > 1:
            check_package("rounds.number above 1")
        super().check()


class FromCuts(Segmentation):
    """A later round: cross-entropy over given labels, and those of the cuts everywhere else."""

    def pictures(self, state: base.State, batch: Batch) -> Pictures:
        return {**super().pictures(state, batch), LABEL_MADE: batch["label"]}


@dataclasses.dataclass(frozen=True)
class Cut:
    """Labels each training image without a mask, between two rounds."""

    method: TotalVariation
    stage: str
    labels: str

    def __call__(self, state: base.State, context: base.FinishContext) -> None:
        method = self.method
        options = dataclasses.replace(context.inference, post=None)
        made_labels.make(
            context,
            method.config.data,
            method.cut_kinds,
            Predictor(method.predict, method.eval_variables(state), options, method.num_classes),
            functools.partial(cut, method.rounds.cut),
            context.workdir / self.labels,
            stage=self.stage,
            seconds=CUT_SECONDS * method.num_classes,
        )


def cut(options: postprocess.Cut, image: made_labels.Image, probs: np.ndarray) -> made_labels.Made:
    labels = postprocess.mrf_labels(options, image.pixels, probs, image.given).astype(np.uint8)
    columns = {"image": image.pixels, "prediction": probs.argmax(axis=-1), LABEL_MADE: labels}
    return made_labels.Made.of_labels(labels, columns)
