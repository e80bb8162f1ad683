"""The losses as one would write them first, in jax.numpy and in PyTorch: what `losses.py` compares with.

Gated CRF is the published algorithm, border included: windows of features and probabilities are written out, multiplied
and summed, kernels outside autodiff. The PyTorch versions take channels first. Nothing here imports semiseg_jax.
"""

import importlib
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

if os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):
    # OpenMP's threads spin while they wait; where others want the cores, that can make PyTorch a hundred times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

# Every other pair of 8-neighbours, (rows, columns), by angle.
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))


def plain_windows(x: jax.Array, radius: int) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,N,C], N = (2 radius + 1)^2, zeros outside."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))
    rows = jnp.stack([padded[:, y : y + height] for y in range(2 * radius + 1)], axis=3)
    cells = jnp.stack([rows[:, :, x : x + width] for x in range(2 * radius + 1)], axis=4)
    return cells.reshape(*x.shape[:3], -1, x.shape[-1])


def plain_kernel(image: jax.Array, radius: int, kernels: Sequence[Mapping[str, float]]) -> jax.Array:
    """[B,H,W,N]."""
    batch, height, width, _ = image.shape
    grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), axis=-1)
    kernel: Any = 0.0
    for gaussian in kernels:
        features = [jnp.broadcast_to(grid / gaussian["xy"], (batch, height, width, 2))]
        features += [image / gaussian["rgb"]] if "rgb" in gaussian else []
        stacked = jnp.concatenate(features, axis=-1)
        squared = jnp.sum(jnp.square(plain_windows(stacked, radius) - stacked[..., None, :]), axis=-1)
        kernel += gaussian["weight"] * jnp.exp(-0.5 * squared)
    centre = (2 * radius + 1) ** 2 // 2
    return jax.lax.stop_gradient(jnp.where(jnp.arange(2 * centre + 1) == centre, 0.0, kernel))


def plain_gated_crf(probs: Any, image: Any, *extra: Any, radius: int, kernels: Any, gate: bool, matrix: bool) -> Any:
    kernel = plain_kernel(image, radius, kernels)
    count = jnp.maximum(jnp.sum(extra[0]), 1.0) if gate else probs[..., 0].size
    if gate:
        kernel *= plain_windows(extra[0][..., None], radius)[..., 0]
    if matrix:
        costs = extra[-1] / jnp.sum(extra[-1], axis=1, keepdims=True) * (probs.shape[-1] - 1)
        pulled = jnp.sum(kernel[..., None] * plain_windows(probs, radius), axis=3)
        return jnp.sum((probs @ costs) * pulled) / count
    agreement = jnp.sum(plain_windows(probs, radius) * probs[..., None, :], axis=-1)
    return jnp.sum(kernel * (1.0 - agreement)) / count


def plain_filter(p: jax.Array, image: jax.Array, *, radius: int, kernels: Any) -> jax.Array:
    """Zeros outside add nothing, so no border matters here."""
    return jnp.sum(plain_kernel(image, radius, kernels)[..., None] * plain_windows(p, radius), axis=3)


def plain_variation(probs: jax.Array, *, norm: str) -> jax.Array:
    down, right = probs[:, 1:] - probs[:, :-1], probs[:, :, 1:] - probs[:, :, :-1]
    if norm == "l1":
        total = jnp.sum(jnp.abs(down)) + jnp.sum(jnp.abs(right))
    else:
        squared = jnp.pad(jnp.sum(down**2, -1), ((0, 0), (0, 1), (0, 0)))
        squared += jnp.pad(jnp.sum(right**2, -1), ((0, 0), (0, 0), (0, 1)))
        total = jnp.sum(jnp.sqrt(jnp.maximum(squared, 1e-20)))
    return total / (down[..., 0].size + right[..., 0].size)


def plain_blur(values: jax.Array, sigma: float) -> jax.Array:
    radius = math.ceil(2.5 * sigma)
    total: Any = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    for axis in (1, 2):
        size = total.shape[axis]
        padded = jnp.pad(total, [(radius, radius) if axis == other else (0, 0) for other in range(4)])
        cuts = [jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(2 * radius + 1)]
        taps = [math.exp(-0.5 * ((start - radius) / sigma) ** 2) for start in range(2 * radius + 1)]
        total = jnp.sum(jnp.stack([tap * cut for tap, cut in zip(taps, cuts, strict=True)]), axis=0)
    return total[..., :-1] / total[..., -1:]


def plain_curvilinear(probs: jax.Array) -> jax.Array:
    smooth = plain_blur(jax.lax.stop_gradient(probs), 1.0)
    dy = jnp.pad(0.5 * (smooth[:, 2:] - smooth[:, :-2]), ((0, 0), (1, 1), (0, 0), (0, 0)))
    dx = jnp.pad(0.5 * (smooth[:, :, 2:] - smooth[:, :, :-2]), ((0, 0), (0, 0), (1, 1), (0, 0)))
    tensor = jnp.stack([jnp.sum(dy * dy, -1), jnp.sum(dx * dx, -1), jnp.sum(dy * dx, -1)], axis=-1)
    yy, xx, yx = jnp.moveaxis(plain_blur(tensor, 2.0), -1, 0)
    coherence = ((xx - yy) ** 2 + 4.0 * yx**2) / (xx + yy + 1e-6) ** 2
    tangent = 0.5 * jnp.arctan2(2.0 * yx, xx - yy) + 0.5 * math.pi
    height, width = probs.shape[1:3]
    total: Any = 0.0
    for number, (down, right) in enumerate(DIRECTIONS):
        turned = jnp.mod(tangent - number * math.pi / 4 + 0.5 * math.pi, math.pi) - 0.5 * math.pi
        weight = coherence * jnp.maximum(0.0, 1.0 - jnp.abs(turned) / (math.pi / 4))
        weight += (1.0 - coherence) * (number % 2 == 0)
        start = max(0, -right)
        here = (slice(None), slice(0, height - down), slice(start, width - max(0, right)))
        there = (slice(None), slice(down, None), slice(start + right, width + min(0, right)))
        change = jnp.sum(jnp.abs(probs[there] - probs[here]), -1) / math.hypot(down, right)
        total += jnp.sum(0.5 * (weight[here] + weight[there]) * change)
    return total / (probs.shape[0] * ((height - 1) * width + height * (width - 1)))


def plain_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    counts = labels < logits.shape[-1]
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.where(counts, labels, 0)[..., None], -1)[..., 0]
    return -jnp.sum(picked * counts) / jnp.maximum(jnp.sum(counts), 1)


def plain_uncertainty(mean: jax.Array, variance: jax.Array, labels: jax.Array) -> jax.Array:
    scale = 1.0 / jnp.sqrt(1.0 + math.pi / 8 * variance)
    if mean.ndim == 4:
        return plain_cross_entropy(scale[..., None] * mean, labels)
    counts = labels < 2
    return jnp.sum(jax.nn.softplus((1.0 - 2.0 * labels) * scale * mean) * counts) / jnp.maximum(jnp.sum(counts), 1)


def plain_adversary(real: jax.Array, fake: jax.Array) -> jax.Array:
    softplus = jax.nn.softplus
    return 0.5 * (jnp.mean(softplus(-real)) + jnp.mean(softplus(fake))) + jnp.mean(softplus(-fake))


def plain_self_training(logits: jax.Array, confidence: jax.Array) -> jax.Array:
    return plain_cross_entropy(logits, jnp.where(confidence > 0.2, jnp.argmax(logits, axis=-1), 255))


def torch_windows(x: Any, radius: int) -> Any:
    """[B,C,H,W] -> [B,C,N,H,W]."""
    unfolded = torch.nn.functional.unfold(x, 2 * radius + 1, padding=radius)
    return unfolded.view(*x.shape[:2], -1, *x.shape[2:])


def torch_kernel(image: Any, radius: int, kernels: Sequence[Mapping[str, float]]) -> Any:
    """[B,N,H,W]."""
    axes = [torch.arange(size, dtype=image.dtype, device=image.device) for size in image.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(image), -1, -1, -1)
    kernel: Any = 0.0
    with torch.no_grad():
        for gaussian in kernels:
            features = [grid / gaussian["xy"], *([image / gaussian["rgb"]] if "rgb" in gaussian else [])]
            stacked = torch.cat(features, dim=1)
            difference = torch_windows(stacked, radius).sub_(stacked[:, :, None])
            kernel += gaussian["weight"] * difference.square_().sum(1).mul_(-0.5).exp_()
        kernel[:, kernel.shape[1] // 2] = 0.0
    return kernel


def torch_gated_crf(probs: Any, image: Any, *extra: Any, radius: int, kernels: Any, gate: bool, matrix: bool) -> Any:
    kernel = torch_kernel(image, radius, kernels)
    count = extra[0].sum().clamp(min=1) if gate else probs[:, 0].numel()
    if gate:
        kernel *= torch_windows(extra[0][:, None], radius)[:, 0]
    pulled = (kernel[:, None] * torch_windows(probs, radius)).sum(2)
    if matrix:
        costs = extra[-1] / extra[-1].sum(1, keepdim=True) * (probs.shape[1] - 1)
        return (torch.einsum("nahw,ab->nbhw", probs, costs) * pulled).sum() / count
    return (kernel.sum() - (probs * pulled).sum()) / count


def torch_filter(p: Any, image: Any, *, radius: int, kernels: Any) -> Any:
    return (torch_kernel(image, radius, kernels)[:, None] * torch_windows(p, radius)).sum(2)


def torch_variation(probs: Any, *, norm: str) -> Any:
    down, right = probs[:, :, 1:] - probs[:, :, :-1], probs[..., 1:] - probs[..., :-1]
    pairs = down[:, 0].numel() + right[:, 0].numel()
    if norm == "l1":
        return (down.abs().sum() + right.abs().sum()) / pairs
    pad = torch.nn.functional.pad
    squared = pad(down.square().sum(1), (0, 0, 0, 1)) + pad(right.square().sum(1), (0, 1))
    return squared.clamp(min=1e-20).sqrt().sum() / pairs


def torch_blur(values: Any, sigma: float) -> Any:
    batch, channels, height, width = values.shape
    radius = math.ceil(2.5 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=values.device) / sigma) ** 2)
    total = torch.cat([values, torch.ones_like(values[:, :1])], dim=1).view(-1, 1, height, width)
    total = torch.nn.functional.conv2d(total, taps.view(1, 1, -1, 1), padding=(radius, 0))
    total = torch.nn.functional.conv2d(total, taps.view(1, 1, 1, -1), padding=(0, radius))
    total = total.view(batch, channels + 1, height, width)
    return total[:, :-1] / total[:, -1:]


def torch_curvilinear(probs: Any) -> Any:
    pad = torch.nn.functional.pad
    with torch.no_grad():
        smooth = torch_blur(probs, 1.0)
        dy = pad(0.5 * (smooth[:, :, 2:] - smooth[:, :, :-2]), (0, 0, 1, 1))
        dx = pad(0.5 * (smooth[..., 2:] - smooth[..., :-2]), (1, 1))
        tensor = torch.stack([(dy * dy).sum(1), (dx * dx).sum(1), (dy * dx).sum(1)], dim=1)
        yy, xx, yx = torch_blur(tensor, 2.0).unbind(1)
        coherence = ((xx - yy) ** 2 + 4.0 * yx**2) / (xx + yy + 1e-6) ** 2
        tangent = 0.5 * torch.arctan2(2.0 * yx, xx - yy) + 0.5 * math.pi
    total: Any = 0.0
    height, width = probs.shape[2:]
    for number, (down, right) in enumerate(DIRECTIONS):
        turned = torch.remainder(tangent - number * math.pi / 4 + 0.5 * math.pi, math.pi) - 0.5 * math.pi
        weight = coherence * (1.0 - turned.abs() / (math.pi / 4)).clamp(min=0.0)
        weight += (1.0 - coherence) * (number % 2 == 0)
        start = max(0, -right)
        here = (..., slice(0, height - down), slice(start, width - max(0, right)))
        there = (..., slice(down, None), slice(start + right, width + min(0, right)))
        change = (probs[there] - probs[here]).abs().sum(1) / math.hypot(down, right)
        total += (0.5 * (weight[here] + weight[there]) * change).sum()
    return total / (len(probs) * ((height - 1) * width + height * (width - 1)))


def torch_cross_entropy(logits: Any, labels: Any) -> Any:
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)


def torch_uncertainty(mean: Any, variance: Any, labels: Any) -> Any:
    scale = torch.rsqrt(1.0 + math.pi / 8 * variance)
    if mean.ndim == 4:
        return torch_cross_entropy(scale[:, None] * mean, labels)
    counts = (labels < 2).to(mean.dtype)
    binary = torch.nn.functional.binary_cross_entropy_with_logits
    return binary(scale * mean, labels * counts, counts, reduction="sum") / counts.sum().clamp(min=1)


def torch_adversary(real: Any, fake: Any) -> Any:
    binary, ones = torch.nn.functional.binary_cross_entropy_with_logits, torch.ones_like(fake)
    return 0.5 * (binary(real, ones) + binary(fake, torch.zeros_like(fake))) + binary(fake, ones)


def torch_self_training(logits: Any, confidence: Any) -> Any:
    return torch_cross_entropy(logits, torch.where(confidence > 0.2, logits.detach().argmax(1), 255))
