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
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from semiseg_jax.data.pools import parse_quota
from semiseg_jax.data.types import IGNORE, Batch, Supervision
from semiseg_jax.engine.inference import Inference, Predictor
from semiseg_jax.engine.made_scores import LABEL_MADE
from semiseg_jax.engine.optimizers import make_optimizer, make_schedule
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import base, label_transfer, made_labels
from semiseg_jax.methods.adversarial import Adversarial
from semiseg_jax.methods.label_graph import Graph
from semiseg_jax.methods.made_labels import LABELS, Image, Made, Make
from semiseg_jax.methods.segmentation import Segmentation
from semiseg_jax.models import DTYPES, Classifier, pretrained
from semiseg_jax.models.layers import resize
from semiseg_jax.ops.images import standardize
from semiseg_jax.ops.reduce import masked_mean
from semiseg_jax.options import OptionError, Options, option

CAMS, SECOND_LABELS = "cams", f"{LABELS}_2"


@dataclasses.dataclass(frozen=True)
class TransferOptions(Options):
    """How labels of the weak classes are made."""

    labels_from: str = option("l_net", "or cam: the activation maps alone", choices=("l_net", "cam"))
    rounds: int = option(1, "2: labels anew from the first P-Net, and once more", choices=(1, 2))
    classifier_backbone: str = option("mobilenet_v2", "network of the classifier")
    classifier_weights: str = option("", "file that it starts from; empty = pretrained.path")
    classifier_steps: int = option(0, "0 = as many as P-Net", low=0)
    classifier_crop: tuple[int, int] = option((224, 224), "what the classifier sees", low=32)
    classifier_scale: tuple[float, float] = option((0.6, 1.0), "as augment.scale, for the classifier", low=0)
    l_net_steps: int = option(0, "0 = as many as P-Net", low=0)
    l_net_balance: bool = option(False, "L-Net draws its images as with data.balance_images")
    cam_scales: tuple[float, ...] = option(
        (0.75, 1.0, 1.25), "sizes of the image whose activation maps are averaged", low=0.1, high=10
    )
    class_seed: float = option(0.4, "activation above which a pixel is of its class", low=0, high=1)
    object_seed: float = option(0.5, "and the object map must be above this", low=0, high=1)
    background_seed: float = option(0.2, "both below this: background", low=0, high=1)
    diffusion: str = option("grid", "labels spread over cells of 4 pixels, or superpixels", choices=("grid", "graph"))
    graph: Graph = dataclasses.field(default_factory=Graph)
    object_sigma: float = option(0.2, "of the affinity between neighbours, in the object map", low=1e-6)
    color_sigma: float = option(0.3, "of grid: of the affinity, in standardised colours", low=1e-6)
    radius: int = option(5, "of grid: of the affinity, in cells", low=1)
    alpha: float = option(0.95, "how much a cell or superpixel takes from its neighbours", low=0, high=0.999)
    margin: float = option(0.1, "two classes nearer than this share leave a pixel without label", low=0, high=1)
    sure: float = option(0.5, "probability from which the first P-Net labels a pixel for the second", low=0, high=1)
    pictures: int = option(24, "images of each stage whose maps are drawn", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cam_scales:
            raise OptionError("cam_scales", "is empty but must hold at least one number")
        if self.labels_from == "cam" and self.rounds > 1:
            raise OptionError("rounds", "of 2 goes with labels_from='l_net'")


class Transfer(Adversarial):
    sections: ClassVar[Mapping[str, type[Options]]] = {**Adversarial.sections, "transfer": TransferOptions}
    needs = ("cross_entropy", "made_labels")

    def __init__(self, config: Settings, num_classes: int):
        if not config.data.strong_classes:
            raise ValueError(f"method {config.method!r} needs data.strong_classes: the classes whose masks may be used")
        quota = config.data.quota
        if Supervision.TAGS not in parse_quota(quota):
            raise ValueError(f"method {config.method!r} needs rows of kind tags, but data.quota is {quota}")
        if config.log.hidden_masks:
            raise ValueError(f"method {config.method!r} never opens a mask of a weak class; set log.hidden_masks=0")
        if config.data.made_labels:
            raise ValueError(f"method {config.method!r} makes its own labels; data.made_labels must be empty")
        super().__init__(config.replace(data={"made_labels": LABELS, "made_for": ("tags",)}), num_classes)
        self.transfer: TransferOptions = config.own["transfer"]
        self.rows = sum(self.quota.values())
        self.classifier = TagClassifier(self._classifier_config(config), num_classes, self.transfer)
        self.l_net = LNet(self._l_net_config(config), 2)

    @property
    def needs_background(self) -> str:
        return f"method {self.config.method!r}"

    def stages(self) -> Sequence[base.Stage]:
        (p_net,) = super().stages()
        classifier = base.Stage(
            name="classifier",
            config=self.classifier.config,
            init=self.classifier.init,
            train_step=self.classifier.train_step,
            start=self.classifier.start,
            check=self.classifier.check,
            rates=self.classifier.rates,
            finish=self._finish_classifier,
            makes=LABELS if self.transfer.labels_from == "cam" else CAMS,
            scored=False,
        )
        (l_net,) = self.l_net.stages()
        l_net = dataclasses.replace(l_net, name="l_net", finish=self._finish_l_net, makes=LABELS, scored=False)
        first = dataclasses.replace(p_net, name="p_net")
        if self.transfer.labels_from == "cam":
            return [classifier, first]
        if self.transfer.rounds == 1:
            return [classifier, l_net, first]
        config = self.config.replace(data={"made_labels": SECOND_LABELS})
        second = dataclasses.replace(p_net, name="p_net_2", config=config)
        first = dataclasses.replace(first, finish=self._finish_p_net, makes=SECOND_LABELS)
        return [classifier, l_net, first, second]

    def _classifier_config(self, config: Settings) -> Settings:
        """Tags of all images of weak classes, at its own crop and in its own number of steps."""
        return config.replace(
            steps=self.transfer.classifier_steps or config.steps,
            data={"quota": {"tags": self.rows}},
            augment={"crop": self.transfer.classifier_crop, "scale": self.transfer.classifier_scale},
            pretrained={"path": self.transfer.classifier_weights or config.pretrained.path},
        )

    def _l_net_config(self, config: Settings) -> Settings:
        """Masks of strong classes and nothing else, in its own number of steps."""
        balanced = self.transfer.l_net_balance or config.data.balance_images
        return config.replace(
            steps=self.transfer.l_net_steps or config.steps,
            data={"quota": {"dense": self.rows}, "balance_images": balanced},
            class_weights=(),
            terms={
                name: dataclasses.replace(options, weight=float(name == "cross_entropy"))
                for name, options in config.terms.items()
            },
        )

    def _finish_classifier(self, state: base.State, context: base.FinishContext) -> None:
        """Activation maps of every image of weak classes; labels of the baseline, which has no L-Net."""
        options = self.transfer

        def labelled(image: Image, cam: np.ndarray) -> Made:
            maps = label_transfer.activations(cam, image.tags)
            labels = label_transfer.labels_from_activations(
                maps, seed=options.class_seed, background=options.background_seed
            )
            return Made.of_labels(labels, {"image": image.pixels, "activation": maps.max(axis=-1), LABEL_MADE: labels})

        def mapped(image: Image, cam: np.ndarray) -> Made:
            maps = label_transfer.activations(cam, image.tags)
            return Made(label_transfer.encode_map(maps), {"image": image.pixels, "activation": maps.max(axis=-1)})

        looks = _looks(context, *options.cam_scales)
        predictor = Predictor(self.classifier.cam, state.networks["classifier"].averaged, looks, self.num_classes)
        if options.labels_from == "cam":
            self._over_weak_images(context, "classifier", predictor, labelled, LABELS)
        else:
            self._over_weak_images(context, "classifier", predictor, mapped, CAMS, suffix=".npz")

    def _finish_l_net(self, state: base.State, context: base.FinishContext) -> None:
        """Object maps of every image of weak classes, and L_w."""

        def made(image: Image, probs: np.ndarray) -> Made:
            maps = label_transfer.read_map(context.workdir / CAMS / f"{image.name}.npz", image.pixels.shape)
            objects = probs[..., 1]
            labels = label_transfer.diffused_labels(image.pixels, maps, objects, self.transfer)
            columns = {"image": image.pixels, "activation": maps.max(axis=-1), "object": objects, LABEL_MADE: labels}
            return Made.of_labels(labels, columns)

        predictor = Predictor(self.l_net.predict, self.l_net.eval_variables(state), _looks(context, 1.0), 2)
        self._over_weak_images(context, "l_net", predictor, made, LABELS)

    def _finish_p_net(self, state: base.State, context: base.FinishContext) -> None:
        def made(image: Image, probs: np.ndarray) -> Made:
            labels = label_transfer.restricted_labels(probs, image.tags, sure=self.transfer.sure)
            return Made.of_labels(labels, {"image": image.pixels, LABEL_MADE: labels})

        predictor = Predictor(self.predict, self.eval_variables(state), _looks(context, 1.0), self.num_classes)
        self._over_weak_images(context, "p_net", predictor, made, SECOND_LABELS)

    def _over_weak_images(
        self,
        context: base.FinishContext,
        stage: str,
        predictor: Predictor,
        make_one: Make,
        folder: str,
        suffix: str = ".png",
    ) -> None:
        made_labels.make(
            context, self.config.data, [Supervision.TAGS], predictor, make_one, context.workdir / folder,
            stage=stage, suffix=suffix, drawn=self.transfer.pictures,
        )  # fmt: skip


class LNet(Segmentation):
    """Object or background, of masks stripped of their classes."""

    def loss(self, params: base.Trees, batch_stats: base.Trees, batch: Batch, rng: jax.Array, *, step: jax.Array):
        label = batch["label"]
        stripped: Any = {**batch, "label": jnp.where(label == IGNORE, IGNORE, (label > 0).astype(label.dtype))}
        return super().loss(params, batch_stats, stripped, rng, step=step)


class TagClassifier:
    """Which classes are in the image: one sigmoid a class, binary cross-entropy over the known tags but background."""

    def __init__(self, config: Settings, num_classes: int, transfer: TransferOptions):
        self.config = config
        options = {name: config.model[name] for name in ("layout", "norm") if name in config.model}
        self.model = Classifier(
            num_classes,
            backbone=transfer.classifier_backbone,
            output_stride=16,
            dtype=DTYPES[config.dtype],
            axis_name=AXIS,
            **options,
        )
        self.optimizers = {"classifier": make_optimizer(config.optimizer, config.steps)}
        self.schedules = {"classifier": make_schedule(config.optimizer, config.steps)}

    def init(self, rng: jax.Array, batch: Batch) -> base.State:
        optimizer, ema = self.optimizers["classifier"], self.config.ema > 0
        return base.init_state("classifier", self.model, rng, batch["image"], optimizer, ema=ema)

    def check(self) -> None:
        pretrained.check(self.model, self.config.pretrained)

    def rates(self, steps: int) -> Mapping[str, Any]:
        return base.learning_rates(self.schedules, steps)

    def start(self, state: base.State) -> base.State:
        return base.with_pretrained(state, "classifier", self.model, self.config.pretrained)

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


def _looks(context: base.FinishContext, *scales: float) -> Inference:
    return dataclasses.replace(context.inference, flip=True, scales=scales, post=None)
