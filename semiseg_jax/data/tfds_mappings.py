"""What the features of a tfds set mean: which are image, mask and id, and what the values of the mask stand for.

Sets that are known are in `KNOWN`; of any other set, `TfdsOptions` says it (`data.options`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from semiseg_jax.data.label_maps import stretch_of
from semiseg_jax.data.tfds_names import ADE_OF_INSTANCE, ADE_SCENES, CITYSCAPES, CITYSCAPES_IDS
from semiseg_jax.data.types import IGNORE, MOST_CLASSES
from semiseg_jax.options import Options, option

STRANGE = -1  # of values that stand for nothing
_IDS = ("id", "image_id", "image/id", "file_name", "filename", "image/filename", "image/file_name", "name")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


@dataclasses.dataclass(frozen=True)
class TfdsOptions(Options):
    """Of sets that are not known by name; of known ones, those given here replace what is known."""

    image: str = option("", "name of the feature that is the image; empty = the only one with 3 channels")
    mask: str = option("", "name of the feature that is the mask; empty = the only one with 1 channel")
    id: str = option("", "name of the feature that tells images apart; empty = a usual one, or their numbers")
    classes: tuple[str, ...] = option((), "their names; empty = as the set names them, else as masks count them")
    values: tuple[int, ...] = option((), "of the mask, one for each class; empty = they count from `offset`")
    offset: int = option(0, "the value of the mask that is the first class", low=0)
    ignored: tuple[int, ...] = option((IGNORE,), "values of the mask that are no label")
    channel: int = option(-1, "of a mask with several; -1 = they are all the same", low=-1, high=2)
    background: str = option("", "name of the class that is background; empty = the one of this name, if any")


@dataclasses.dataclass(frozen=True)
class Meaning:
    """Which features are read, and what they say."""

    image: str
    mask: str
    id: str = ""
    classes: tuple[str, ...] = ()  # () = counted in the masks
    values: Mapping[int, int] = dataclasses.field(default_factory=dict)  # of the mask -> class
    others: int = STRANGE  # what all other values are
    channel: int = -1
    background: int | None = None
    colors: tuple[tuple[int, int, int], ...] = ()
    tags: tuple[int, ...] = ()  # of every image: 1 present, 0 absent, -1 unknown
    box: str = ""  # a feature: the box around the one object, of class 1
    segments: str = ""  # a feature that lists `id` and `label` of the segments whose ids an RGB mask holds
    config: str = ""  # of the set, if several are there and none is named

    @property
    def features(self) -> list[str]:
        return [name for name in (self.image, self.mask, self.id, self.box, self.segments) if name]

    @functools.cached_property
    def table(self) -> np.ndarray:
        """[65536] the class of each value, IGNORE or STRANGE."""
        table = np.full(2**16, self.others, np.int16)
        for value, klass in self.values.items():
            table[value] = klass
        return table

    def raw_mask(self, example: Mapping[str, Any]) -> np.ndarray:
        """[H,W] the values of the mask, or the classes of its segments."""
        array = read_values(example[self.mask])
        if self.segments:
            return _classes_of_segments(array, example[self.segments])
        if array.ndim == 2:
            return array
        if self.channel < 0 and (array != array[..., :1]).any():
            raise ValueError(
                f"its mask ({self.mask}) has {array.shape[2]} channels that differ; with options.channel one is taken"
            )
        return array[..., max(self.channel, 0)]

    def mask_of(self, example: Mapping[str, Any]) -> np.ndarray:
        """[H,W] uint8 class indices, IGNORE where there is no label."""
        raw = self.raw_mask(example)
        return raw if self.segments else self.table.astype(np.uint8)[raw]

    def shown(self, values: np.ndarray) -> list[int]:
        """The classes that these values of a mask stand for."""
        classes = values if self.segments else self.table[values]
        strange = values[classes == STRANGE]
        if len(strange):
            raise ValueError(f"its mask ({self.mask}) has values {strange[:8].tolist()} that stand for no class")
        return sorted({int(klass) for klass in classes} - {IGNORE})

    def id_of(self, example: Mapping[str, Any], otherwise: str) -> str:
        """A name without folder and suffix, for a file."""
        if not self.id:
            return otherwise
        value = example[self.id]
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        path = PurePosixPath(text)
        if path.suffix.lower() in _SUFFIXES:
            path = path.with_suffix("")
        return str(path).strip("/").replace("/", "_") or otherwise


def read_values(data: bytes) -> np.ndarray:
    """[H,W], or [H,W,C] in the order of RGB; palette files give their indices."""
    if data[:4] == b"\x89PNG" and data[25:26] == b"\x03":
        import io

        from PIL import Image

        with Image.open(io.BytesIO(data)) as file:
            return np.asarray(file)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if array is None or array.dtype not in (np.uint8, np.uint16):
        raise ValueError("its mask is not a readable image of whole numbers")
    if array.ndim == 3 and array.shape[2] == 1:
        return array[..., 0]
    if array.ndim == 3:
        return array[..., 2::-1]
    stretch = stretch_of(data[:26])
    return array // stretch if stretch > 1 else array


def _classes_of_segments(array: np.ndarray, segments: Mapping[str, Any]) -> np.ndarray:
    ids = array.astype(np.int64) @ np.array([1, 256, 65536])
    known, labels = np.asarray(segments["id"], np.int64), np.asarray(segments["label"], np.int64)
    order = np.argsort(known)
    known, labels = np.append(known[order], -1), np.append(labels[order], IGNORE)
    place = np.searchsorted(known[:-1], ids)
    return np.where(known[place] == ids, labels[place], IGNORE).astype(np.uint8)


_BIRD = Meaning(
    image="image",
    mask="segmentation_mask",
    id="image/filename",
    classes=("background", "bird"),
    background=0,
    tags=(-1, 1),
    box="bbox",
)

# By the name of the set.
KNOWN: Mapping[str, Meaning] = {
    "oxford_iiit_pet": Meaning(
        image="image",
        mask="segmentation_mask",
        id="file_name",
        classes=("background", "pet"),
        values={1: 1, 2: 0, 3: IGNORE},  # 3 = the border between both
        background=0,
        tags=(-1, 1),
    ),
    "cityscapes": Meaning(
        image="image_left",
        mask="segmentation_label",
        id="image_id",
        classes=tuple(CITYSCAPES),
        values=CITYSCAPES_IDS,
        others=IGNORE,
        colors=tuple(CITYSCAPES.values()),
        config="semantic_segmentation",
    ),
    "lost_and_found": Meaning(
        image="image_left",
        mask="segmentation_label",
        id="image_id",
        classes=("road", "obstacle"),
        values={0: IGNORE, IGNORE: IGNORE, 1: 0, **dict.fromkeys(range(2, IGNORE), 1)},
        config="semantic_segmentation",
    ),
    # The masks of this set are those of its instances: red counts 100 of the 150 classes, which are things.
    "scene_parse150": Meaning(
        image="image", mask="annotation", classes=ADE_SCENES, values={0: IGNORE, **ADE_OF_INSTANCE}, channel=0
    ),
    "coco": Meaning(
        image="image",
        mask="panoptic_image",
        id="image/filename",
        segments="panoptic_objects",
        config="2017_panoptic",
    ),
    "caltech_birds2010": dataclasses.replace(_BIRD, values={0: 0, **dict.fromkeys(range(1, 256), 1)}),
    # Grey says how many people of five saw a bird.
    "caltech_birds2011": dataclasses.replace(_BIRD, values={value: int(value >= 128) for value in range(256)}),
}


def meaning_of(name: str, options: TfdsOptions, features: tfds.features.FeaturesDict) -> Meaning:
    """The meaning of a set's features; raises an error that lists them where it is not clear."""
    known = KNOWN.get(name)
    if known and all(feature in features for feature in known.features) and options == TfdsOptions():
        return _named_by_segments(known, features) if known.segments else known
    if known and not options.mask and not _by_options(options):  # only the names of image or id are others
        named = dataclasses.replace(known, image=options.image or known.image, id=options.id or known.id)
        if all(feature in features for feature in named.features):
            return _named_by_segments(named, features) if named.segments else named
    usual = known or Meaning("", "")
    image = _feature(name, "image", options.image or _if_there(usual.image, features), features)
    mask = _feature(name, "mask", options.mask or _if_there(usual.mask, features), features)
    id = options.id or _if_there(usual.id, features) or next((id for id in _IDS if _is_id(features, id)), "")
    if id and id not in features:
        raise ValueError(
            f"tfds:{name} has no feature {id!r} (config.data.options.id); it has {', '.join(sorted(features))}"
        )
    classes = options.classes or tuple(getattr(features[mask], "names", None) or ())
    if len(classes) == 1 or len(classes) > MOST_CLASSES:
        raise ValueError(f"tfds:{name}: config.data.options.classes must be 2 to {MOST_CLASSES} names")
    values = options.values or range(options.offset, options.offset + (len(classes) or MOST_CLASSES))
    if options.values and classes and len(options.values) != len(classes):
        raise ValueError(
            f"tfds:{name}: config.data.options.values has {len(options.values)} values but there are "
            f"{len(classes)} classes"
        )
    background = options.background or "background"
    if options.background and background not in classes:
        raise ValueError(f"tfds:{name}: config.data.options.background {background!r} is none of the classes")
    return Meaning(
        image=image,
        mask=mask,
        id=id,
        classes=classes,
        values={**{value: number for number, value in enumerate(values)}, **dict.fromkeys(options.ignored, IGNORE)},
        channel=options.channel,
        background=classes.index(background) if background in classes else None,
    )


def _by_options(options: TfdsOptions) -> bool:
    """Whether they say what the values of masks are."""
    usual = TfdsOptions()
    return any(
        getattr(options, field) != getattr(usual, field)
        for field in ("classes", "values", "offset", "ignored", "channel", "background")
    )


def _if_there(name: str, features: tfds.features.FeaturesDict) -> str:
    return name if name in features else ""


def _is_id(features: tfds.features.FeaturesDict, name: str) -> bool:
    return name in features and features[name].shape == () and features[name].np_dtype.kind in "OSUiu"


def _feature(name: str, role: str, given: str, features: tfds.features.FeaturesDict) -> str:
    """The feature that is named, or the only one that can be meant."""
    images = {
        key: feature
        for key, feature in sorted(features.items())
        if isinstance(feature, tfds.features.Image) and np.issubdtype(feature.np_dtype, np.integer)
    }
    if given:
        if given not in images:
            raise ValueError(
                f"tfds:{name} has no image feature {given!r} (config.data.options.{role}); it has "
                f"{', '.join(images) or 'none'}"
            )
        return given
    channels = 3 if role == "image" else 1
    fitting = [key for key, feature in images.items() if feature.shape[-1] == channels]
    if len(fitting) != 1:
        shown = ", ".join(f"{key} {feature.shape}" for key, feature in images.items()) or "none"
        raise ValueError(
            f"tfds:{name}: which feature is the {role}? Its features that are images: {shown}. Say it with "
            f'--config.data.options=\'{{"image": ..., "mask": ...}}\''
        )
    return fitting[0]


def _named_by_segments(meaning: Meaning, features: tfds.features.FeaturesDict) -> Meaning:
    label = features[meaning.segments].feature["label"]
    return dataclasses.replace(meaning, classes=tuple(label.names or map(str, range(label.num_classes))))
