"""Convolutions with the same numbers on every backend, each in the form that its compiler runs fast.

GPUs and TPUs have libraries for every convolution. XLA on CPU is fast at dense ones with stride 1 and at matrix
products; other cases, most of them gradients, are written as these there.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Pads = Sequence[tuple[int, int]]
# Elements of a band of rows in the kernel gradient of a depthwise convolution: the band stays in the cache.
_BAND = 1 << 18
# Channels in and out from which a kernel gradient is faster as products.
_WIDE = 256


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1, pads: Pads) -> jax.Array:
    """x [B,H,W,C], kernel [k,k,C,D] -> [B,h,w,D]; `pads` are rows and columns of zeros around x (before, after)."""
    options = (stride, dilation, tuple(pads))
    return lax.platform_dependent(
        x,
        _varying(kernel, x),
        cpu=lambda x, kernel: _dense_on_cpu(x, kernel, *options),
        default=lambda x, kernel: _library(x, kernel, *options),
    )


def depthwise_convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1, pads: Pads) -> jax.Array:
    """x [B,H,W,C], kernel [k,k,1,C] -> [B,h,w,C]: every channel has its own kernel."""
    options = (stride, dilation, tuple(pads))
    return lax.platform_dependent(
        x,
        _varying(kernel, x),
        cpu=lambda x, kernel: _depthwise_on_cpu(x, kernel, *options),
        default=lambda x, kernel: _library(x, kernel, *options, groups=x.shape[-1]),
    )


@jax.custom_vjp
def settle(x: jax.Array) -> jax.Array:
    """x itself, computed once, as is its gradient.

    XLA on CPU computes elementwise chains anew for each of their uses, through all blocks of a residual network, and in
    the wrong order where a product needs them transposed. It cannot look through a condition on data.
    """
    return _settle(x)


def _settle(x: jax.Array) -> jax.Array:
    def on_cpu(x: jax.Array) -> jax.Array:
        return lax.cond(x.ravel()[0] == jnp.inf, lambda x: jnp.minimum(x, jnp.inf), lambda x: x, x)

    return lax.platform_dependent(x, cpu=on_cpu, default=lambda x: x)


settle.defvjp(lambda x: (_settle(x), None), lambda _, cotangent: (_settle(cotangent),))


def _varying(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """The kernel, the same on all devices, as a value of this device, which custom gradients need."""
    return kernel + jnp.zeros_like(x, shape=(1,) * 4)


def _library(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, pads: Pads, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _output_size(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, pads: Pads) -> tuple[int, int]:
    height, width = (
        (size + before + after - dilation * (taps - 1) - 1) // stride + 1
        for size, taps, (before, after) in zip(x.shape[1:3], kernel.shape[:2], pads, strict=True)
    )
    return height, width


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _dense_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, pads: Pads) -> jax.Array:
    return _best_forward(x, kernel, stride, dilation, pads)


def _best_forward(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, pads: Pads) -> jax.Array:
    taps = kernel.shape[0] * kernel.shape[1]
    if taps == 1 and not any(map(any, pads)):
        return jnp.einsum("bhwc,cd->bhwd", x[:, ::stride, ::stride], kernel[0, 0])
    if stride == 1 and taps * kernel.shape[3] <= kernel.shape[2]:
        return _taps_first(x, kernel, dilation, pads)
    return _library(x, kernel, stride, dilation, pads)


def _dense_forward(x, kernel, stride, dilation, pads):
    return _dense_on_cpu(x, kernel, stride, dilation, pads), (x, kernel)


def _dense_backward(stride, dilation, pads, saved, cotangent):
    x, kernel = saved
    cotangent = _settle(cotangent)
    _, input_and_kernel = jax.vjp(lambda x, kernel: _best_forward(x, kernel, stride, dilation, pads), x, kernel)
    input_gradient, kernel_gradient = input_and_kernel(cotangent)
    taps = kernel.shape[0] * kernel.shape[1]
    if taps > 1 and stride > 1 and dilation == 1:
        input_gradient = _strided_input_gradient(x, kernel, stride, pads, cotangent)
    if taps > 1 and stride == 1 and min(kernel.shape[2:]) >= _WIDE:
        kernel_gradient = _wide_kernel_gradient(x, kernel, dilation, pads, cotangent)
    return input_gradient, kernel_gradient


_dense_on_cpu.defvjp(_dense_forward, _dense_backward)


def _taps_first(x: jax.Array, kernel: jax.Array, dilation: int, pads: Pads) -> jax.Array:
    """One product with all taps, then a sum of their few output channels, shifted: for many channels in, few out."""
    size = _output_size(x, kernel, 1, dilation, pads)
    products = jnp.einsum("bhwc,ijcd->ijbhwd", x, kernel)
    total = jnp.zeros((), x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            total = total + _place(products[i, j], (i * dilation - pads[0][0], j * dilation - pads[1][0]), size)
    return total


def _strided_input_gradient(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, cotangent: jax.Array
) -> jax.Array:
    """One product with all taps, then a sum over cells of stride x stride pixels, each cell's pixels being channels."""
    cells = [-(-side // stride) for side in kernel.shape[:2]]
    whole = [(0, count * stride - side) for count, side in zip(cells, kernel.shape[:2], strict=True)]
    kernel = jnp.pad(kernel, [*whole, (0, 0), (0, 0)])
    kernel = kernel.reshape(cells[0], stride, cells[1], stride, *kernel.shape[2:])
    products = jnp.einsum("bhwd,isjtcd->ijbhwstc", cotangent, kernel)
    products = products.reshape(*products.shape[:5], -1)
    size = cotangent.shape[1] + cells[0] - 1, cotangent.shape[2] + cells[1] - 1
    total = jnp.zeros((), x.dtype)
    for i in range(cells[0]):
        for j in range(cells[1]):
            total = total + _place(products[i, j], (-i, -j), size)
    total = total.reshape(x.shape[0], *size, stride, stride, x.shape[3]).transpose(0, 1, 3, 2, 4, 5)
    total = total.reshape(x.shape[0], size[0] * stride, size[1] * stride, x.shape[3])
    return _place(total, (pads[0][0], pads[1][0]), x.shape[1:3])


def _wide_kernel_gradient(
    x: jax.Array, kernel: jax.Array, dilation: int, pads: Pads, cotangent: jax.Array
) -> jax.Array:
    """One product for each tap: for many channels in and out."""
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    height, width = cotangent.shape[1:3]
    rows, columns = jnp.divmod(jnp.arange(kernel.shape[0] * kernel.shape[1]), kernel.shape[1])

    def one(tap: tuple[jax.Array, jax.Array]) -> jax.Array:
        corner = (0, tap[0] * dilation, tap[1] * dilation, 0)
        view = lax.dynamic_slice(padded, corner, (x.shape[0], height, width, x.shape[3]))
        return jnp.einsum("bhwc,bhwd->cd", view, cotangent)

    return lax.map(one, (rows, columns)).reshape(kernel.shape)


def _place(x: jax.Array, corner: tuple[int, int], size: Sequence[int]) -> jax.Array:
    """The part of x of that size whose first pixel is at `corner`; zero where x has nothing."""
    edges = [
        (-first, wanted - (length - first), 0) for first, wanted, length in zip(corner, size, x.shape[1:3], strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, pads: Pads) -> jax.Array:
    """Shifted multiply-adds. The derived kernel gradient would write a full array per tap; ours goes by bands."""
    height, width = _output_size(x, kernel, stride, dilation, pads)
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    return _shifted_sum(x, kernel, stride, dilation, height, width)


def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, height: int, width: int) -> jax.Array:
    total = jnp.zeros((), x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            total = total + _view(x, i * dilation, j * dilation, stride, height, width) * kernel[i, j, 0]
    return total


def _view(x: jax.Array, top: int, left: int, stride: int, height: int, width: int) -> jax.Array:
    """Rows top, top + stride, ... and columns likewise; with stride 1 as a dynamic slice, which vectorises better."""
    if stride == 1:
        return lax.dynamic_slice(x, (0, top, left, 0), (x.shape[0], height, width, x.shape[3]))
    bottom, right = top + stride * (height - 1) + 1, left + stride * (width - 1) + 1
    return lax.slice(x, (0, top, left, 0), (x.shape[0], bottom, right, x.shape[3]), (1, stride, stride, 1))


def _depthwise_forward(x, kernel, stride, dilation, pads):
    return _depthwise_on_cpu(x, kernel, stride, dilation, pads), (x, kernel)


def _depthwise_backward(stride, dilation, pads, saved, cotangent):
    x, kernel = saved
    height, width = cotangent.shape[1:3]
    if stride == 1:
        # The cotangent meets the mirrored kernel.
        reach = [dilation * (side - 1) for side in kernel.shape[:2]]
        corner = pads[0][0] - reach[0], pads[1][0] - reach[1]
        moved = _place(cotangent, corner, [size + far for size, far in zip(x.shape[1:3], reach, strict=True)])
        input_gradient = _shifted_sum(moved, kernel[::-1, ::-1], 1, dilation, *x.shape[1:3])
    elif dilation == 1:
        input_gradient = _strided_depthwise_gradient(x, kernel, stride, pads, cotangent)
    else:
        (input_gradient,) = jax.linear_transpose(
            lambda x: _shifted_sum(jnp.pad(x, [(0, 0), *pads, (0, 0)]), kernel, stride, dilation, height, width), x
        )(cotangent)
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    return input_gradient, _depthwise_kernel_gradient(x, cotangent, kernel, stride, dilation)


def _strided_depthwise_gradient(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, cotangent: jax.Array
) -> jax.Array:
    """Each pixel of a cell of stride x stride meets its own taps; then the cells are put together."""
    cells = [-(-side // stride) - 1 for side in kernel.shape[:2]]
    size = cotangent.shape[1] + cells[0], cotangent.shape[2] + cells[1]
    padded = jnp.pad(cotangent, [(0, 0), (cells[0],) * 2, (cells[1],) * 2, (0, 0)])

    def pixel(a: int, b: int) -> jax.Array:
        total = jnp.zeros((cotangent.shape[0], *size, cotangent.shape[3]), cotangent.dtype)
        for i in range(a, kernel.shape[0], stride):
            for j in range(b, kernel.shape[1], stride):
                view = _view(padded, cells[0] - i // stride, cells[1] - j // stride, 1, *size)
                total = total + view * kernel[i, j, 0]
        return total

    grid = jnp.stack([jnp.stack([pixel(a, b) for b in range(stride)], axis=3) for a in range(stride)], axis=2)
    grid = grid.reshape(x.shape[0], size[0] * stride, size[1] * stride, x.shape[3])
    return _place(grid, (pads[0][0], pads[1][0]), x.shape[1:3])


def _depthwise_kernel_gradient(
    x: jax.Array, cotangent: jax.Array, kernel: jax.Array, stride: int, dilation: int
) -> jax.Array:
    """Sums over bands of rows; x is padded."""
    batch, height, width, channels = cotangent.shape
    rows = max(1, min(height, _BAND // (batch * width * channels)))
    bands = -(-height // rows)
    reach = dilation * (kernel.shape[0] - 1)
    cotangent = jnp.pad(cotangent, [(0, 0), (0, bands * rows - height), (0, 0), (0, 0)])
    needed = stride * (bands * rows - 1) + reach + 1
    x = jnp.pad(x, [(0, 0), (0, max(0, needed - x.shape[1])), (0, 0), (0, 0)])

    def add(total: jax.Array, band: jax.Array) -> tuple[jax.Array, None]:
        high = stride * (rows - 1) + reach + 1
        part = lax.dynamic_slice_in_dim(x, band * rows * stride, high, axis=1)
        other = lax.dynamic_slice_in_dim(cotangent, band * rows, rows, axis=1).astype(jnp.float32)
        sums = [
            jnp.sum(_view(part, i * dilation, j * dilation, stride, rows, width) * other, axis=(0, 1, 2))
            for i in range(kernel.shape[0])
            for j in range(kernel.shape[1])
        ]
        return total + jnp.stack(sums), None

    start = jnp.zeros_like(kernel, jnp.float32).reshape(-1, channels)
    total, _ = lax.scan(add, start, jnp.arange(bands))
    return total.reshape(kernel.shape).astype(kernel.dtype)


_depthwise_on_cpu.defvjp(_depthwise_forward, _depthwise_backward)
