"""Layers that every network shares: convolution, norms, pooling and resizing."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.ops._checks import check_shape
from semiseg_jax.ops.convolution import convolve, depthwise_convolve
from semiseg_jax.ops.images import MEAN, STD

NORMS = ("batch", "affine_frozen", "frozen", "group", "none")
PADDINGS = ("symmetric", "same")


class Conv(nn.Module):
    """Square convolution; kernel [k,k,in,out], or [k,k,1,channels] where `depthwise`.

    Attributes:
      features: channels out.
      padding: "symmetric" as PyTorch does it, or "same" as TensorFlow does.
      precision: of the products of a dense convolution; None is what the backend prefers, which on GPU and TPU rounds
        float32 factors. Layers that give logits have "highest".
    """

    features: int
    kernel_size: int = 1
    strides: int = 1
    dilation: int = 1
    depthwise: bool = False
    use_bias: bool = False
    padding: str = "symmetric"
    dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = nn.initializers.he_normal()
    precision: lax.PrecisionLike = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        pads = [paddings(size, self.kernel_size, self.strides, self.dilation, self.padding) for size in x.shape[1:3]]
        x = x.astype(self.dtype)
        options: dict[str, Any] = {"stride": self.strides, "dilation": self.dilation, "pads": pads}
        if self.depthwise:
            x = depthwise_convolve(x, kernel, **options)
        else:
            x = convolve(x, kernel, **options, precision=self.precision)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            x = (x.astype(jnp.float32) + bias).astype(self.dtype)  # its gradient, a sum over all pixels, is float32
        return x


def paddings(size: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """Rows (or columns) of zeros before and after `size` rows."""
    reach = dilation * (kernel - 1)
    if padding == "symmetric":
        # Half of the reach, so that stride 1 keeps the size; an even kernel with stride 2 halves it.
        return reach // 2, reach // 2
    if padding == "same":
        total = max(0, (-(-size // stride) - 1) * stride + reach + 1 - size)
        return total // 2, total - total // 2
    raise ValueError(f"unknown padding {padding!r}; known: {', '.join(PADDINGS)}")


class Norm(nn.Module):
    """Normalisation by name.

    "batch": statistics of the batch, over all devices. "affine_frozen": likewise, but scale and offset do not learn.
    "frozen": stored statistics, nothing learns. "group": groups of about 8 channels of one image. "none": nothing; the
    convolution before it carries a bias instead.
    """

    kind: str
    axis_name: str | None = None
    dtype: Any = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable[..., jax.Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind not in NORMS:
            raise ValueError(f"unknown model.norm {self.kind!r}; known: {', '.join(NORMS)}")
        if self.kind == "none":
            return x
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        if self.kind == "group":
            return _normalize_groups(x, scale, bias, self.epsilon).astype(self.dtype)
        if self.kind in ("frozen", "affine_frozen"):
            scale, bias = lax.stop_gradient((scale, bias))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        batch_mean, batch_var = mean.value, var.value
        if train and self.kind != "frozen":
            found_mean, found_var, count = self._statistics(x)
            if count > 1:  # a single value, as of the pooled features of one row, has no variance
                batch_mean, batch_var = found_mean, found_var
                if not self.is_initializing():
                    unbiased = lax.stop_gradient(batch_var) * (count / (count - 1))
                    mean.value += (1.0 - self.momentum) * (lax.stop_gradient(batch_mean) - mean.value)
                    var.value += (1.0 - self.momentum) * (unbiased - var.value)
        factor = scale * lax.rsqrt(batch_var + self.epsilon)
        # In float32, as are the gradients of both: sums over all pixels.
        return (x.astype(jnp.float32) * factor + (bias - batch_mean * factor)).astype(self.dtype)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean and variance over the pixels of all devices, which hold equally many."""
        pixels = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        count = pixels.shape[0]
        mean = jnp.mean(pixels, axis=0)
        square = jnp.mean(jnp.square(pixels), axis=0)
        if self.axis_name is not None and not self.is_initializing():
            mean, square = lax.pmean((mean, square), self.axis_name)
            count *= lax.axis_size(self.axis_name)
        return mean, jnp.maximum(square - jnp.square(mean), 0.0), count


def _normalize_groups(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    channels = x.shape[-1]
    groups = math.gcd(channels, max(1, channels // 8))
    split = x.astype(jnp.float32).reshape(*x.shape[:-1], groups, channels // groups)
    mean = jnp.mean(split, axis=(1, 2, 4), keepdims=True)
    square = jnp.mean(jnp.square(split), axis=(1, 2, 4), keepdims=True)
    normal = (split - mean) * lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)
    return normal.reshape(x.shape) * scale + bias


def max_pool(x: jax.Array, *, ceil: bool = False) -> jax.Array:
    """3x3 with stride 2 and padding 1. With `ceil` the size is rounded up, as Caffe does it."""
    pads = [(1, 1 + int(ceil and size % 2 == 0)) for size in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), (2, 2), pads)


def resize(x: jax.Array, size: Sequence[int], *, align_corners: bool = False) -> jax.Array:
    """[B,h,w,C] -> [B,H,W,C], bilinear without antialiasing, as PyTorch's `interpolate` does it."""
    if tuple(size) == x.shape[1:3]:
        return x
    rows, columns = (
        interpolation_matrix(old, new, align_corners).astype(x.dtype)
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    product = functools.partial(jnp.einsum, precision="highest")
    return product("xw,bywc->byxc", columns, product("yh,bhwc->bywc", rows, x))


def interpolation_matrix(old: int, new: int, align_corners: bool) -> jax.Array:
    """[new,old] weights of linear interpolation; with `align_corners` first and last samples fall on each other."""
    if align_corners:
        position = jnp.arange(new) * ((old - 1) / max(new - 1, 1))
    else:
        position = (jnp.arange(new) + 0.5) * (old / new) - 0.5
    position = jnp.clip(position, 0, old - 1)
    return jnp.maximum(1.0 - jnp.abs(position[:, None] - jnp.arange(old)[None, :]), 0.0)


# Name -> mean and deviation of RGB in [0,1] that turn it into the range.
RANGES = {
    "standardized": (MEAN, STD),
    "signed": ((0.5,) * 3, (0.5,) * 3),
    "bytes": ((122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3),
}


def to_range(image: jax.Array, name: str) -> jax.Array:
    """Standardised images -> the range that weights were trained with.

    "standardized" as they are; "signed" [-1,1]; "bytes" [0,255] less the mean that Caffe models use.
    """
    if name == "standardized":
        return image
    mean, std = (jnp.asarray(values, image.dtype) for values in RANGES[name])
    return (image * jnp.asarray(STD, image.dtype) + jnp.asarray(MEAN, image.dtype) - mean) / std


def check_image(module: str, image: Any) -> None:
    """Raises unless `image` is [B,H,W,3] of floats."""
    check_shape(module, "image", image, ("B", "H", "W", 3))
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"{module}: image is {image.dtype} but must be floating, standardised; "
            "give semiseg_jax.ops.standardize(image)"
        )


def check_option(module: str, name: str, value: Any, known: Iterable[Any]) -> None:
    if value not in known:
        raise ValueError(f"{module}: {name} is {value!r}; known: {', '.join(map(str, known))}")
