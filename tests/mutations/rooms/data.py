"""Faults of datasets, weak labels, the input pipeline and augmentation."""

from mutation import Mutation

MUTATIONS = (
    Mutation(
        "data-flip-boxes",
        "boxes are flipped along the wrong axis",
        "data/geometry.py",
        (
            (
                "x = jnp.where(self.flip, self.limits.crop[1] - x, x)",
                "y = jnp.where(self.flip, self.limits.crop[0] - y, y)",
            ),
        ),
        first=(
            "test_augment.py::test_flipping",
            "test_augment",
        ),
    ),
    Mutation(
        "data-flip-mask",
        "mask and valid pixels are not flipped with the image",
        "data/geometry.py",
        (
            (
                "x = jnp.where(self.flip, width - 1 - column, column) + 0.5",
                "x = column + 0.5",
            ),
        ),
        first=(
            "test_augment.py::test_flipping",
            "test_augment",
        ),
    ),
    Mutation(
        "data-turn-back",
        "image and mask are turned the other way than points and boxes",
        "data/geometry.py",
        (("self._rotate(y, x, -self.angle)", "self._rotate(y, x, self.angle)"),),
        first=("test_geometry",),
    ),
    Mutation(
        "data-turn-gaps",
        "strokes that are turned are drawn as if they were not",
        "data/geometry.py",
        (("(math.sqrt(2) if limits.angle else 1.0)", "1.0"),),
        first=("test_geometry.py::test_a_turned_stroke",),
    ),
    Mutation(
        "data-augment-seed",
        "all rows are augmented alike, whatever their seed",
        "data/augment.py",
        (('jax.random.split(jax.random.key(example["seed"]), 6)', "jax.random.split(jax.random.key(0), 6)"),),
        first=(
            "test_augment.py::test_rows_with_other_seeds",
            "test_augment",
        ),
    ),
    Mutation(
        "data-points-centre",
        "points are moved by their corner and not by their centre",
        "data/geometry.py",
        (("(points[:, :2] + 0.5) * self.scale + self.shift", "points[:, :2] * self.scale + self.shift"),),
        first=(
            "test_a_point",
            "test_a_one_pixel_label",
            "test_augment",
        ),
    ),
    Mutation(
        "data-given-labels",
        "made labels win over given ones",
        "data/augment.py",
        (
            (
                "jnp.where((drawn == IGNORE) | ~valid, label, drawn)",
                "jnp.where((label != IGNORE) | ~valid, label, drawn)",
            ),
        ),
        first=(
            "given",
            "stands_in",
            "test_augment",
        ),
    ),
    Mutation(
        "data-quota",
        "a batch has equally many rows of each kind",
        "data/pipeline.py",
        (
            (
                "rows = stream.rows * (shard.rows // unit)",
                "rows = shard.rows // len(streams)",
            ),
        ),
        first=(
            "test_pipeline.py::test_every_unit",
            "test_pipeline",
        ),
    ),
    Mutation(
        "data-row-order",
        "rows with a mask come last",
        "data/pipeline.py",
        (('key=lambda row: -int(row["kind"])', 'key=lambda row: int(row["kind"])'),),
        first=(
            "test_pipeline.py::test_every_unit",
            "test_pipeline",
        ),
    ),
    Mutation(
        "data-processes",
        "all processes read the same rows",
        "data/pipeline.py",
        (("[shard.process :: shard.processes]", "[:]"),),
        first=(
            "test_pipeline.py::test_processes",
            "test_pipeline",
        ),
    ),
    Mutation(
        "data-epoch-order",
        "every epoch has the same order",
        "data/pipeline.py",
        (("[_hash(self.seed, self.stream.name), epoch]", "[_hash(self.seed, self.stream.name), 0]"),),
        first=(
            "test_pipeline.py::test_epochs",
            "test_pipeline",
        ),
    ),
    Mutation(
        "data-row-seed",
        "an image is augmented alike in every epoch",
        "data/pipeline.py",
        (('_hash(self.seed, f"{self.stream.name} {place}")', '_hash(self.seed, f"{self.stream.name} {at}")'),),
        first=(
            "test_pipeline.py::test_epochs",
            "test_pipeline",
        ),
    ),
    Mutation(
        "data-label-leak",
        "an unlabelled row shows the clicks that its image has",
        "data/pipeline.py",
        (
            (
                "if kind not in (Supervision.PARTIAL, Supervision.POINTS):",
                "if kind not in (Supervision.PARTIAL, Supervision.POINTS, Supervision.UNLABELED):",
            ),
        ),
        first=(
            "test_pipeline.py::test_a_row_shows",
            "test_pipeline",
        ),
    ),
    Mutation(
        "data-weak-boxes",
        "images of weak classes keep what labels they have beside their tags",
        "data/datasets.py",
        (("if self.hidden[index]:", "if False:"),),
        first=("test_pools.py::test_images_that_show_a_weak",),
    ),
    Mutation(
        "data-joined-absent",
        "a class is absent although one of the same name in the set is not known",
        "data/joined.py",
        (("for value in (0, -1, 1):", "for value in (-1, 0, 1):"),),
        first=("test_joined.py::test_a_tag_is_unknown",),
    ),
    Mutation(
        "data-two-splits",
        "an image in two splits is read as that of the last one",
        "data/layouts/pairs.py",
        (("        if id in items:", "        if False:"),),
        first=("test_ade20k.py::test_an_image_in_both",),
    ),
    Mutation(
        "data-assign-leak",
        "an image may be assigned to two kinds",
        "data/pools.py",
        (("left = [i for i in left if i not in taken]", "left = list(left)"),),
        first=("test_pools",),
    ),
    Mutation(
        "data-listed-twice",
        "an image that two lists name gets both kinds",
        "data/pools.py",
        ((" if position[id] in free]", "]"),),
        first=("test_published.py::test_an_image_that_two_lists_name",),
    ),
    Mutation(
        "data-families-mixed",
        "published lists of two families are mixed",
        "data/published.py",
        (("if other.family != entry.family:", "if other.dataset != entry.dataset:"),),
        first=("test_published.py::test_lists_of_two_families",),
    ),
    Mutation(
        "data-weak-masks",
        "images of weak classes keep their masks",
        "data/pools.py",
        (("has & ONLY_TAGS if is_weak else", "has if is_weak else"),),
        first=(
            "test_pools.py::test_images_that_show_a_weak",
            "test_pools",
        ),
    ),
    Mutation(
        "data-split-leak",
        "held-out images are trained on too",
        "data/folder_files.py",
        (('"train": sorted(set(images) - held_out)', '"train": sorted(images)'),),
        first=(
            "test_folder.py::test_without_split_files",
            "test_folder",
        ),
    ),
    Mutation(
        "data-ignore-label",
        "the ignore label of a folder stays what it is",
        "data/label_maps.py",
        (("out[array == ignore_label] = IGNORE", "out[array == IGNORE] = IGNORE"),),
        first=(
            "test_folder.py::test_a_custom_ignore",
            "test_folder",
        ),
    ),
    Mutation(
        "data-coco-axes",
        "x and y of COCO boxes are exchanged",
        "data/folder_files.py",
        (("([y, x, y + height, x + width], klass)", "([x, y, x + width, y + height], klass)"),),
        first=(
            "test_folder.py::test_all_label_files",
            "test_folder",
        ),
    ),
    Mutation(
        "data-changed-folder",
        "a changed folder is not built again",
        "data/layout.py",
        (("{fingerprint(self.root, self.watched())}", "{self.root}"),),
        first=(
            "test_folder.py::test_a_changed",
            "test_folder",
        ),
    ),
    Mutation(
        "data-mask-blended",
        "masks are resized like images",
        "data/letterbox.py",
        (("resize(mask, self.placed, nearest=True)", "resize(mask, self.placed)"),),
        first=("test_letterbox",),
    ),
    Mutation(
        "data-geometry-shift",
        "pixels are scaled by their corner and not by their centre",
        "data/letterbox.py",
        (("shift = 0.5 if pixels else 0.0", "shift = 0.0"),),
        first=("test_letterbox",),
    ),
    Mutation(
        "data-box-end",
        "boxes end one pixel too early",
        "data/weak_labels.py",
        (("[corner, corner + component.shape]", "[corner, corner + component.shape - np.array([1, 1])]"),),
        first=(
            "test_weak_labels.py::test_boxes",
            "test_weak_labels",
        ),
    ),
    Mutation(
        "data-pixel-fraction",
        "a fraction of all pixels is drawn, not of the labelled ones",
        "data/weak_labels.py",
        (("round(fraction * len(ys))", "round(fraction * mask.size)"),),
        first=(
            "test_weak_labels.py::test_random_pixels",
            "test_weak_labels",
        ),
    ),
    Mutation(
        "data-colour-order",
        "images are read as BGR",
        "data/records.py",
        (("return cv2.cvtColor(array, cv2.COLOR_BGR2RGB)", "return array"),),
        first=(
            "test_folder.py",
            "test_shapes",
        ),
    ),
    Mutation(
        "data-shrunk-points",
        "points stay where they were when an image is stored smaller",
        "data/layout.py",
        (("value if kind == Supervision.TAGS else box.place_rows(value, pixels=True)", "value"),),
        first=("test_stored.py::test_large_images",),
    ),
    Mutation(
        "data-originals",
        "evaluation reads the shrunk images",
        "data/layout.py",
        (('        if "full" not in row:\n', "        if True:\n"),),
        first=("test_stored.py::test_large_images",),
    ),
    Mutation(
        "data-drawn-size",
        "labels are drawn at the size of the record, whatever training sees",
        "data/drawn.py",
        (("box = Letterbox.fit(size, self.canvas)", "box = Letterbox.fit(size, size)"),),
        first=("test_stored.py::test_a_share",),
    ),
    Mutation(
        "data-drawn-again",
        "images keep no label of their own where labels are drawn",
        "data/drawn.py",
        (('[kind for kind in self.kinds if kind not in row["kinds"]]', "list(self.kinds)"),),
        first=("test_folder.py::test_simulate_keeps",),
    ),
    Mutation(
        "data-joined-masks",
        "masks of a joined set keep the classes of their own set",
        "data/joined.py",
        (("table[decode_mask(mask, (0, 0))]", "decode_mask(mask, (0, 0))"),),
        first=("test_joined.py::test_classes",),
    ),
    Mutation(
        "data-joined-unknown",
        "classes that a set does not know count as absent",
        "data/joined.py",
        (
            (
                "tags, own, target = np.full(self.num_classes, -1, np.int8)",
                "tags, own, target = np.zeros(self.num_classes, np.int8)",
            ),
        ),
        first=("test_joined.py::test_classes",),
    ),
    Mutation(
        "data-view-order",
        "a split that shares images reads those of the split that stores them",
        "data/records.py",
        (("        source, place = self.places[index]\n", "        source, place = self.places[index][0], index\n"),),
        first=("test_stored.py::test_an_image_in_several",),
    ),
    Mutation(
        "data-few-weights",
        "images are enlarged and shrunk with the same filter on CPU",
        "data/geometry.py",
        (("reach = jnp.maximum(1 / scale, 1.0)  # of", "reach = 1 / scale  # of"),),
        first=("test_geometry.py::test_images_are_the_same",),
    ),
)
