"""Losses of whole regions rather than of pixels: how well those of a class overlap with its labels."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.losses._inputs import labelled_pixels, number
from semiseg_jax.ops._checks import check_reduction
from semiseg_jax.ops.pairwise import without_explicit_axes
from semiseg_jax.ops.reduce import divided, sum_last


def dice_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float | jax.Array = 0.5,
    beta: float | jax.Array = 0.5,
    per_image: bool = False,
    ignore_label: int = 255,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""One minus the soft Dice overlap of each class, over labelled pixels; with alpha and beta, the Tversky loss.

    .. math::
      L = \frac{1}{|C|} \sum_{c \in C} \frac{\alpha F_c + \beta M_c}{T_c + \alpha F_c + \beta M_c}, \qquad
      T_c = \sum_p w_p P_c y_c, \quad F_c = \sum_p w_p P_c (1 - y_c), \quad M_c = \sum_p w_p (1 - P_c)\, y_c

    P is the softmax of the logits and C the classes that the labels have. alpha is the price of pixels that are taken
    for the class, beta that of pixels that are missed: both 0.5 give Dice, both 1 the soft Jaccard index, and a higher
    beta finds more of small objects. Where nothing is labelled the loss is 0 with zero gradient.

    Args:
      logits: [B,H,W,K] raw scores, any floating dtype; computed in float32.
      labels: [B,H,W] integer class indices.
      alpha: weight of false positives, above 0.
      beta: weight of false negatives, above 0.
      per_image: False counts over the whole batch, which suits classes that few images have; True takes the loss of
        each image and then the mean of the images that have a label.
      ignore_label: the label of pixels without a label.
      where: [B,H,W] bool, pixels that may count.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false.
      reduction: "mean" over images, of which the batch as a whole is one; "sum" over them; "none", the [B,H,W] map of
        what each pixel adds to the sum.
      axis_name: mapped axis over which counts are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import dice_loss
      >>> labels = jnp.array([[[0, 1], [255, 255]]])
      >>> print(round(float(dice_loss(jnp.zeros((1, 2, 2, 2)), labels)), 4))  # half of each class is missed
      0.5

    References:
      Milletari et al., V-Net, 2016, https://arxiv.org/abs/1606.04797
      Salehi et al., Tversky loss function for image segmentation, 2017, https://arxiv.org/abs/1706.05721
    """
    name = "dice_loss"
    check_reduction(name, reduction)
    logits, labels, weighed = labelled_pixels(name, logits, labels, ignore_label, None, where, weights)
    dtype = logits.dtype
    alpha = number(name, "alpha", alpha, lambda x: 0 < x < float("inf"), "above 0", dtype)
    beta = number(name, "beta", beta, lambda x: 0 < x < float("inf"), "above 0", dtype)
    probs, target = jax.nn.softmax(logits), jax.nn.one_hot(labels, logits.shape[-1], dtype=dtype)
    weighed_target = weighed[..., None] * target
    hit = probs * weighed_target
    # What each pixel pays: alpha for another's class, beta for what its own lacks.
    price = alpha * weighed[..., None] * probs * (1.0 - target) + beta * (1.0 - probs) * weighed_target
    present, hits, paid = (_counted(x, per_image, axis_name) for x in (weighed_target, hit, price))
    shares = _class_shares(present) / jnp.where(present > 0, hits + paid, 1.0)
    if reduction == "none":
        return sum_last(price * shares[:, None, None])
    return _over_images(_counted(price, per_image, None) * shares, present, per_image, reduction, axis_name)


def lovasz_softmax(
    logits: jax.Array,
    labels: jax.Array,
    *,
    per_image: bool = False,
    ignore_label: int = 255,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""A convex stand-in for one minus the intersection over union, averaged over the classes that are present.

    .. math::
      L = \frac{1}{|C|} \sum_{c \in C} \overline{\Delta}_c(m(c)), \qquad m_p(c) = |y_c(p) - P_c(p)|, \qquad
      \overline{\Delta}(m) = \sum_i m_{\pi_i} \big(\Delta(\pi_1, \dots, \pi_i) - \Delta(\pi_1, \dots, \pi_{i-1})\big)

    P is the softmax of the logits, C the classes that the labels have, pi the order of falling errors, and Delta(S) one
    minus the intersection over union of the class if the pixels S are wrong. With `weights`, pixels count in it by
    their weight. Where nothing is labelled the loss is 0 with zero gradient. It sorts the pixels of every class.

    Args:
      logits: [B,H,W,K] raw scores, any floating dtype; computed in float32.
      labels: [B,H,W] integer class indices.
      per_image: False sorts the pixels of the whole batch together, over devices too, which gathers the errors of all
        of them on each; True takes the loss of each image and then the mean of the images that have a label.
      ignore_label: the label of pixels without a label.
      where: [B,H,W] bool, pixels that may count.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false.
      reduction: "mean" over images, of which the batch as a whole is one; "sum" over them; "none", the [B,H,W] map of
        what each pixel adds to the sum.
      axis_name: mapped axis over which the batch is split; the loss is that of the global batch either way.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import lovasz_softmax
      >>> labels = jnp.array([[[0, 0, 0, 1]]])
      >>> sure_of_0 = jnp.array([9.0, -9.0]) * jnp.ones((1, 1, 4, 2))
      >>> print(round(float(lovasz_softmax(sure_of_0, labels)), 3))  # IoU 3/4 and 0
      0.625

    References:
      Berman et al., The Lovász-Softmax loss, 2018, https://arxiv.org/abs/1705.08790
    """
    name = "lovasz_softmax"
    check_reduction(name, reduction)
    logits, labels, weighed = labelled_pixels(name, logits, labels, ignore_label, None, where, weights)
    probs, target = jax.nn.softmax(logits), jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    errors = (weighed > 0).astype(logits.dtype)[..., None] * jnp.abs(target - probs)
    inside = weighed[..., None] * target
    present = _counted(inside, per_image, axis_name)
    sort = without_explicit_axes(functools.partial(_slopes, per_image=per_image, axis_name=axis_name), errors)
    slopes = sort(lax.stop_gradient(errors), inside, weighed[..., None] * (1.0 - target))
    values = errors * slopes * _class_shares(present)[:, None, None]
    if reduction == "none":
        return sum_last(values)
    return _over_images(_counted(values, per_image, None), present, per_image, reduction, axis_name)


def _counted(values: jax.Array, per_image: bool, axis_name: str | None) -> jax.Array:
    """[B,H,W,K] -> [B,K] for each image, or [1,K] for the batch, over `axis_name` too."""
    if per_image:
        return jnp.sum(values, axis=(1, 2))
    total = jnp.sum(values, axis=(0, 1, 2))[None]
    return total if axis_name is None else lax.psum(total, axis_name)


def _class_shares(present: jax.Array) -> jax.Array:
    """What each class is of the mean over those that are present, 0 for the others."""
    there = (present > 0).astype(present.dtype)
    return there / jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1.0)


def _over_images(
    values: jax.Array, present: jax.Array, per_image: bool, reduction: str, axis_name: str | None
) -> jax.Array:
    """The sum of [B,K], or their mean over the images in which a class is present."""
    images = jnp.sum(jnp.any(present > 0, axis=-1).astype(values.dtype))
    return divided(jnp.sum(values), images, reduction if per_image else "sum", axis_name)


def _slopes(
    errors: jax.Array, inside: jax.Array, outside: jax.Array, per_image: bool, axis_name: str | None
) -> jax.Array:
    """By how much each pixel, put in the order of falling errors, lowers the intersection over union: [B,H,W,K].

    Args:
      errors: [B,H,W,K]
      inside: [B,H,W,K] the weight of pixels that belong to the class; 0 for others.
      outside: [B,H,W,K] the weight of pixels that do not.
      per_image: whether each image has an order of its own.
      axis_name: over which the batch is split.
    """
    batch, height, width, classes = errors.shape
    rows = [jnp.moveaxis(x.reshape(batch, -1, classes), -1, 1) for x in (errors, inside, outside)]
    if not per_image:
        if axis_name is not None:
            rows = [lax.all_gather(x, axis_name, tiled=True) for x in rows]
        rows = [jnp.moveaxis(x, 1, 0).reshape(1, classes, -1) for x in rows]
    place = lax.broadcasted_iota(jnp.int32, rows[0].shape, 2)
    _, place = lax.sort((-rows[0], place), num_keys=1)
    inside, outside = (jnp.take_along_axis(x, place, axis=-1) for x in rows[1:])
    # A pixel of the class leaves the intersection, another one joins the union: no difference of nearly equal numbers.
    total = jnp.sum(inside, axis=-1, keepdims=True)
    intersection = total - jnp.cumsum(inside, axis=-1)
    union = jnp.where(total > 0, total, 1.0) + jnp.cumsum(outside, axis=-1)
    before = jnp.maximum(union - outside, jnp.where(total > 0, total, 1.0))
    slopes = inside / union + intersection * outside / (before * union)
    slopes = jnp.put_along_axis(jnp.zeros_like(slopes), place, slopes, axis=-1, inplace=False)
    if not per_image:
        slopes = jnp.moveaxis(slopes.reshape(classes, -1, height * width), 1, 0)
        if axis_name is not None:
            slopes = lax.dynamic_slice_in_dim(slopes, lax.axis_index(axis_name) * batch, batch)
    return jnp.moveaxis(slopes, 1, -1).reshape(errors.shape)
