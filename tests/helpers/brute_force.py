"""Sums over pairs of pixels in plain NumPy and float64, written from the formulas and not from the package."""

import itertools
import math

import numpy as np


def kernel_matrix(shape, features, radius, xy_sigma=None, weights=None):
    """[B,N,N] kernel of every pixel i with every pixel j; 0 outside the window and for i = j."""
    batch, height, width = shape
    terms = features if isinstance(features, list) else [features]
    sigmas = xy_sigma if isinstance(xy_sigma, list) else [xy_sigma] * len(terms)
    ys, xs = (grid.ravel() for grid in np.mgrid[:height, :width])
    dy, dx = ys[:, None] - ys, xs[:, None] - xs
    steps = np.maximum(abs(dy), abs(dx))
    kernel = np.zeros((batch, height * width, height * width))
    for term, sigma, weight in zip(terms, sigmas, weights or [1.0] * len(terms), strict=True):
        squared = np.zeros_like(kernel)
        if sigma is not None:
            squared += (dy**2 + dx**2) / sigma**2
        if term is not None:
            flat = np.asarray(term, np.float64).reshape(batch, height * width, -1)
            squared += ((flat[:, :, None] - flat[:, None]) ** 2).sum(-1)
        kernel += weight * np.exp(-squared / 2)
    return kernel * ((steps > 0) & (steps <= radius))


def filtered(p, kernel):
    """[B,H,W,K] -> sum_j k_ij p_j"""
    flat = np.asarray(p, np.float64).reshape(*kernel.shape[:2], -1)
    return (kernel @ flat).reshape(p.shape)


def potts(p, kernel, source=None, target=None):
    """-> sum_ij t_i s_j k_ij (1 - <p_i, p_j>) and its gradient."""
    gate = [1.0 if mask is None else np.reshape(mask, kernel.shape[:2]).astype(np.float64) for mask in (source, target)]
    gated = kernel * np.broadcast_to(gate[0], kernel.shape[:2])[:, None, :]
    gated = gated * np.broadcast_to(gate[1], kernel.shape[:2])[:, :, None]
    flat = np.asarray(p, np.float64).reshape(*kernel.shape[:2], -1)
    agreement = flat @ flat.swapaxes(1, 2)
    return (gated * (1 - agreement)).sum(), -filtered(p, gated + gated.swapaxes(1, 2))


def block_average(array, size):
    """[B,h,w,...] -> [B,*size,...]: every pixel is cut into equal pieces, which are averaged in blocks."""
    array = np.asarray(array, np.float64)
    for axis, pixels in zip((1, 2), size, strict=True):
        pieces = np.repeat(array, math.lcm(array.shape[axis], pixels) // array.shape[axis], axis)
        array = pieces.reshape(*array.shape[:axis], pixels, -1, *array.shape[axis + 1 :]).mean(axis + 1)
    return array


def gated_crf(
    probs, guides, kernels, radius, source_mask=None, target_mask=None, compatibility=None, border="reference"
):
    """Loss and gradient as the published code computes them, offset by offset over zero-padded arrays.

    `guides` maps the names that `kernels` use to [B,h,w] or [B,h,w,F].
    """
    probs = np.asarray(probs, np.float64)
    batch, height, width, classes = probs.shape
    ys, xs = np.mgrid[:height, :width]
    grids = {"xy": np.broadcast_to(np.stack([xs, ys], -1), (batch, height, width, 2))}
    for name, guide in guides.items():
        grids[name] = block_average(guide, (height, width)).reshape(batch, height, width, -1)
    source, target = (_binary(mask, (height, width)) for mask in (source_mask, target_mask))
    terms = []
    for kernel in kernels:
        scaled = [grids[name] / sigma for name, sigma in kernel.items() if name != "weight"]
        terms.append((kernel.get("weight", 1), np.concatenate(scaled, -1)))
    cost = -np.eye(classes)
    if compatibility is not None:
        cost = np.array(compatibility, np.float64)
        cost *= (classes - 1) / cost.sum(1, keepdims=True)

    def pad(array):
        return np.pad(array, [(0, 0), (radius, radius), (radius, radius)] + [(0, 0)] * (array.ndim - 3))

    padded, gradient = pad(probs), np.zeros_like(pad(probs))
    centre = np.s_[:, radius : radius + height, radius : radius + width]
    loss = 0.0
    for dy, dx in itertools.product(range(2 * radius + 1), repeat=2):
        if dy == dx == radius:
            continue
        there = np.s_[:, dy : dy + height, dx : dx + width]
        k = sum(w * np.exp(-0.5 * ((pad(f)[there] - f) ** 2).sum(-1)) for w, f in terms)
        if source is not None:
            k = k * pad(source)[there]
        if target is not None:
            k = k * target
        if border == "exclude":
            k = k * pad(np.ones(probs.shape[:3]))[there]
        loss += (k * ((compatibility is None) + (probs @ cost * padded[there]).sum(-1))).sum()
        gradient[centre] += k[..., None] * (padded[there] @ cost.T)
        gradient[there] += k[..., None] * (probs @ cost)
    counted = source if target is None else target
    count = batch * height * width if counted is None else max(counted.sum(), 1)
    return loss / count, gradient[centre] / count


def _binary(mask, size):
    if mask is None:
        return None
    average = block_average(mask, size)
    return np.where(np.isnan(average) | (average < 1 - 1e-9), 0.0, 1.0)
