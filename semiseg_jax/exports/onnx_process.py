"""Converts a network to ONNX, in a Python that has jax2onnx and flax but not what else this package needs.

    python -m semiseg_jax.exports.onnx_process FOLDER

FOLDER holds `order.json`, `weights.npz` and `image.npy`; `model.onnx` and `probabilities.npy` are written into it.
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax import export
from jax.extend.core import jaxpr_as_fun

from semiseg_jax.exports.program import whole_image
from semiseg_jax.models import make_model
from semiseg_jax.ops.images import standardize


def main(folder: Path) -> None:
    import onnx
    import onnxruntime
    from jax2onnx import to_onnx

    order = json.loads((folder / "order.json").read_text())
    options = dict(order["model"])
    model = make_model(options.pop("name"), order["classes"], dtype=order["dtype"], **options)
    weights = unflatten_dict(dict(np.load(folder / "weights.npz")), sep="/")

    def forward(weights: Any, images: jax.Array) -> jax.Array:
        outputs: Any = model.apply(weights, standardize(images), train=False, method="outputs")
        return jax.nn.softmax(outputs["logits"])

    nn.max_pool = _max_pool
    program = whole_image(forward, order["largest"], order["rungs"], flip=order["flip"])
    images = jax.ShapeDtypeStruct(export.symbolic_shape(f"B, {order['size'][0]}, {order['size'][1]}, 3"), jnp.uint8)
    # Traced before jax2onnx replaces functions of jax and flax, whose arguments it does not all know.
    traced = jax.make_jaxpr(lambda images: program(weights, images))(images)
    names = ["labels", "probabilities"]  # the order that jax gives them
    made = to_onnx(jaxpr_as_fun(traced), inputs=[images], input_names=["images"], output_names=names)
    card = order["card"]
    onnx.helper.set_model_props(
        made, {name: value if isinstance(value, str) else json.dumps(value) for name, value in card.items()}
    )
    onnx.save(made, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    found = session.run(["probabilities"], {"images": np.load(folder / "image.npy")[None]})
    np.save(folder / "probabilities.npy", found[0][0])


def _max_pool(
    inputs: jax.Array, window_shape: Sequence[int], strides: Sequence[int] | None = None, padding: Any = "VALID"
) -> jax.Array:
    """As flax's, by taking rows and columns: jax2onnx makes of it a pooling over four axes, which ONNX Runtime lacks.

    Places in the padding stand for the pixel at the border, which is in their window anyway.
    """
    x, strides = inputs, strides or (1,) * len(window_shape)
    named = isinstance(padding, str)
    pads = jax.lax.padtype_to_pads(x.shape[1:-1], window_shape, strides, padding) if named else padding
    for axis, (length, stride, (before, after)) in enumerate(zip(window_shape, strides, pads, strict=True), start=1):
        side = x.shape[axis]
        starts = np.arange((side + before + after - length) // stride + 1) * stride - before
        taken = [jnp.take(x, np.clip(starts + i, 0, side - 1), axis=axis, mode="clip") for i in range(length)]
        x = functools.reduce(jnp.maximum, taken)
    return x


if __name__ == "__main__":
    main(Path(sys.argv[1]))
