"""`transfer`: masks of some classes, tags of all (Xiao et al., 1711.06828).

Images that show only strong classes (`data.strong_classes`) bring their masks, x_s, y_s; all others only their tags,
x_w.

    1. classifier   one sigmoid a class on the tags; activation maps A_c
    2. l_net        object or background, on x_s; object maps M of x_w: things look alike whatever their class
       labels       A_c spread over x_w along colours and M: L_w
    3. p_net        CE(G(x_s), y_s) + l_w CE(G(x_w), L_w) + l_tag L_tag(x_w) + adversarial terms
    4. p_net_2      optional: L_w anew, from G restricted to the tags

The discriminator of p_net sees background against everything else, beside the image: true maps never show a weak
class, which it would otherwise call false. Prediction is G alone and uses no tags.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from semiseg_jax.data.pools import parse_quota
from semiseg_jax.data.types import IGNORE, Batch, Supervision
from semiseg_jax.engine.inference import Options, Predictor
from semiseg_jax.engine.made_scores import LABEL_MADE
from semiseg_jax.engine.optimizers import make_optimizer
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.methods import base, label_transfer, made_labels
from semiseg_jax.methods.adversarial import Adversarial
from semiseg_jax.methods.made_labels import LABELS, Columns, Image, Made
from semiseg_jax.methods.segmentation import Segmentation
from semiseg_jax.models import DTYPES, Classifier
from semiseg_jax.models.layers import resize
from semiseg_jax.ops.images import standardize
from semiseg_jax.ops.reduce import masked_mean

CAMS = "cams"


class Transfer(Adversarial):
    needs = ("cross_entropy", "made_labels")
    makes_labels = True

    def __init__(self, config: ConfigDict, num_classes: int):
        if not config.data.strong_classes:
            raise ValueError("method 'transfer' needs data.strong_classes: the classes whose masks may be used")
        quota = config.data.quota.to_dict()
        if Supervision.TAGS not in parse_quota(quota):
            raise ValueError(f"method 'transfer' needs rows of kind tags, but data.quota is {quota}")
        super().__init__(config, num_classes)
        if config.log.hidden_masks:
            raise ValueError("method 'transfer' never opens a mask of a weak class; set log.hidden_masks=0")
        if config.transfer.labels_from == "cam" and config.transfer.rounds > 1:
            raise ValueError("transfer.rounds=2 goes with transfer.labels_from='l_net'")
        self.rows = sum(self.quota.values())
        self.classifier = TagClassifier(config, num_classes)
        self.l_net = LNet(_l_net_config(config, self.rows), 2)

    def stages(self, config: ConfigDict) -> Sequence[base.Stage]:
        transfer = config.transfer
        (p_net,) = super().stages(config)
        classifier = base.Stage(
            name="classifier",
            data=_with_quota(config.data, {"tags": self.rows}),
            steps=self.classifier.steps,
            init=self.classifier.init,
            train_step=self.classifier.train_step,
            start=self.classifier.start,
            finish=self._finish_classifier,
            augment=_with(config.augment, crop=transfer.classifier_crop, scale=transfer.classifier_scale),
            scored=False,
        )
        (l_net,) = self.l_net.stages(self.l_net.config)
        l_net = dataclasses.replace(l_net, name="l_net", finish=self._finish_l_net, scored=False)
        first = dataclasses.replace(p_net, name="p_net", labels=LABELS)
        if transfer.labels_from == "cam":
            return [classifier, first]
        if transfer.rounds == 1:
            return [classifier, l_net, first]
        second = dataclasses.replace(p_net, name="p_net_2", labels=f"{LABELS}_2")
        return [classifier, l_net, dataclasses.replace(first, finish=self._finish_p_net), second]

    def _finish_classifier(self, state: base.State, site: base.Site) -> None:
        """Activation maps of every image of weak classes; labels of the baseline, which has no L-Net."""
        options = self.config.transfer

        def made(image: Image, cam: np.ndarray) -> Columns:
            maps = label_transfer.activations(cam, image.tags)
            if options.labels_from != "cam":
                label_transfer.write_map(site.workdir / CAMS, image.name, maps)
                return {"activation": maps.max(axis=-1)}
            labels = label_transfer.labels_from_activations(
                maps, seed=options.class_seed, background=options.background_seed
            )
            made_labels.write_labels(site.workdir / LABELS, image.name, labels)
            return {"activation": maps.max(axis=-1), LABEL_MADE: labels}

        looks = _looks(site, *options.cam_scales)
        predictor = Predictor(self.classifier.cam, state.networks["classifier"].averaged, looks, self.num_classes)
        self._over_weak_images(site, "classifier", "activation maps", predictor, made)

    def _finish_l_net(self, state: base.State, site: base.Site) -> None:
        """Object maps of every image of weak classes, and L_w."""

        def made(image: Image, probs: np.ndarray) -> Columns:
            maps, objects = label_transfer.read_map(site.workdir / CAMS, image.name, image.pixels.shape), probs[..., 1]
            labels = label_transfer.diffused_labels(image.pixels, maps, objects, self.config.transfer)
            made_labels.write_labels(site.workdir / LABELS, image.name, labels)
            return {"activation": maps.max(axis=-1), "object": objects, LABEL_MADE: labels}

        predictor = Predictor(self.l_net.predict, self.l_net.eval_variables(state), _looks(site, 1.0), 2)
        self._over_weak_images(site, "l_net", "labels", predictor, made)

    def _finish_p_net(self, state: base.State, site: base.Site) -> None:
        def made(image: Image, probs: np.ndarray) -> Columns:
            labels = label_transfer.restricted_labels(probs, image.tags, sure=self.config.transfer.sure)
            made_labels.write_labels(site.workdir / f"{LABELS}_2", image.name, labels)
            return {LABEL_MADE: labels}

        predictor = Predictor(self.predict, self.eval_variables(state), _looks(site, 1.0), self.num_classes)
        self._over_weak_images(site, "p_net", "labels", predictor, made)

    def _over_weak_images(self, site: base.Site, stage: str, what: str, predictor: Predictor, made: Made) -> None:
        made_labels.make(
            site, self.config.data, [Supervision.TAGS], predictor, made,
            stage=stage, what=what, drawn=self.config.transfer.pictures,
        )  # fmt: skip


class LNet(Segmentation):
    """Object or background, of masks stripped of their classes."""

    def loss(self, params: base.Trees, batch_stats: base.Trees, batch: Batch, rng: jax.Array, *, step: jax.Array):
        label = batch["label"]
        stripped: Any = {**batch, "label": jnp.where(label == IGNORE, IGNORE, (label > 0).astype(label.dtype))}
        return super().loss(params, batch_stats, stripped, rng, step=step)


class TagClassifier:
    """Which classes are in the image: one sigmoid a class, binary cross-entropy over the known tags but background."""

    def __init__(self, config: ConfigDict, num_classes: int):
        self.config, transfer = config, config.transfer
        self.steps = transfer.classifier_steps or config.steps
        options = {name: config.model[name] for name in ("layout", "norm") if name in config.model}
        self.model = Classifier(
            num_classes,
            backbone=transfer.classifier_backbone,
            output_stride=16,
            dtype=DTYPES[config.dtype],
            axis_name=AXIS,
            **options,
        )
        self.optimizers = {"classifier": make_optimizer(config.optimizer, self.steps)}

    def init(self, rng: jax.Array, batch: Batch) -> base.State:
        optimizer, ema = self.optimizers["classifier"], self.config.ema > 0
        return base.init_state("classifier", self.model, rng, batch["image"], optimizer, ema=ema)

    def start(self, state: base.State) -> base.State:
        pretrained = self.config.pretrained
        path = self.config.transfer.classifier_weights or pretrained.path
        return base.with_pretrained(state, "classifier", self.model, _with(pretrained, path=path))

    def loss(self, params: base.Trees, batch_stats: base.Trees, batch: Batch, rng: jax.Array):
        del rng
        variables = {"params": params["classifier"], "batch_stats": batch_stats["classifier"]}
        logits, updated = self.model.apply(variables, standardize(batch["image"]), train=True, mutable=["batch_stats"])
        known = (batch["tags"] >= 0) & (jnp.arange(logits.shape[-1]) > 0)
        present = batch["tags"] == 1
        paid, right = jax.nn.softplus(jnp.where(present, -logits, logits)), (logits > 0) == present
        metrics = {"tag_accuracy": masked_mean(right, known, AXIS)}
        return masked_mean(paid, known, AXIS), ({"classifier": updated.get("batch_stats", {})}, metrics)

    def train_step(self, state: base.State, batch: Batch) -> tuple[base.State, base.Metrics]:
        return base.step(self.loss, state, batch, self.optimizers, self.config)

    def cam(self, variables: base.Variables, images: jax.Array) -> jax.Array:
        """What each pixel adds to each class -> [B,H,W,K]."""
        outputs: Any = self.model.apply(variables, standardize(images), train=False, method="outputs")
        return resize(outputs["cam"], images.shape[1:3])


def _looks(site: base.Site, *scales: float) -> Options:
    return dataclasses.replace(site.inference, flip=True, scales=scales, post=None)


def _with(config: ConfigDict, **changes: Any) -> ConfigDict:
    altered = ConfigDict(config.to_dict())
    altered.update(changes)
    return altered


def _with_quota(data: ConfigDict, quota: dict[str, int]) -> ConfigDict:
    altered = ConfigDict(data.to_dict())
    altered.quota = ConfigDict(quota)
    return altered


def _l_net_config(config: ConfigDict, rows: int) -> ConfigDict:
    """Masks of strong classes and nothing else, in its own number of steps."""
    altered = ConfigDict(config.to_dict())
    altered.data = _with_quota(config.data, {"dense": rows})
    altered.steps = config.transfer.l_net_steps or config.steps
    altered.class_weights = ()
    for name, options in altered.terms.items():
        options.weight = float(name == "cross_entropy")
    return altered
