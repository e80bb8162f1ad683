"""Trained models as StableHLO in one file: written, read back, and used for prediction.

The file is a zip archive without compression. It holds `card.json`, `weights.npz`, and two programs of `jax.export`:
`program.bin` takes whole images, `network.bin` the canvases that `semiseg predict` makes of them.
"""

import dataclasses
import io
import json
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from semiseg_jax.data.records import DatasetInfo
from semiseg_jax.engine.files import write_whole
from semiseg_jax.engine.inference import Evaluation, Inference, Predictor
from semiseg_jax.engine.postprocess import Post, make_post
from semiseg_jax.exports.card import age_warning
from semiseg_jax.exports.program import Forward, Rungs, whole_image
from semiseg_jax.ops.convolution import convolution_form

logger = logging.getLogger("semiseg_jax")

PLATFORMS = ("cpu", "cuda", "tpu")
PROMISE = "later versions of jax read this file for six months; newer files may need a newer jax"
_EXPIRED = "jax_export_deserialize_expired_versions"  # newer versions of jax refuse old files, unless this is set
Weights = Mapping[str, Any]


class ExportError(ValueError):
    """A file that is no export, or a model that cannot be exported."""


def programs(
    forward: Forward, weights: Weights, largest: Sequence[int], rungs: Sequence[Rungs], *, flip: bool
) -> dict[str, bytes]:
    """The programs of a network, for batches and images of any size, as named in the file."""
    like = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
    try:
        network = _export(_suits_each_device(forward), like, "b, 32*h, 32*w, 3", jnp.float32)
        # The network has symbols of its own for the sides of the canvas, which are long expressions of the image's.
        program = _export(whole_image(network.call, largest, rungs, flip=flip), like, "b, h, w, 3", jnp.uint8)
    except (jax.errors.JAXTypeError, TypeError, ValueError, NotImplementedError) as error:
        raise ExportError(f"the network cannot be exported for images of any size: {error}") from error
    return {"network.bin": bytes(network.serialize()), "program.bin": bytes(program.serialize())}


def _suits_each_device(forward: Forward) -> Forward:
    """The network twice: with the convolutions that are fast on CPUs, and with those of the library."""

    def in_form(form: str) -> Forward:
        def network(weights: Weights, images: jax.Array) -> jax.Array:
            with convolution_form(form):
                return forward(weights, images)

        return network

    def network(weights: Weights, images: jax.Array) -> Any:
        return jax.lax.platform_dependent(weights, images, cpu=in_form("cpu"), default=in_form("library"))

    return network


def _export(function: Any, like: Any, shape: str, dtype: Any) -> export.Exported:
    images = jax.ShapeDtypeStruct(export.symbolic_shape(shape), dtype)
    return export.export(jax.jit(function), platforms=PLATFORMS)(like, images)


def write(path: Path, card: Mapping[str, Any], weights: Weights, parts: Mapping[str, bytes]) -> None:
    arrays, whole = io.BytesIO(), io.BytesIO()
    plain: dict[str, Any] = {name: np.asarray(array) for name, array in weights.items()}
    np.savez(arrays, **plain)
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("card.json", json.dumps(card, indent=2) + "\n")
        file.writestr("weights.npz", arrays.getvalue())
        for name, part in parts.items():
            file.writestr(name, part)
    write_whole(path, whole.getvalue())


@dataclasses.dataclass(frozen=True)
class Saved:
    """An export that was read back."""

    card: Mapping[str, Any]
    weights: Weights
    program: export.Exported  # (weights, images [B,H,W,3] uint8) -> probabilities and labels
    network: export.Exported  # (weights, canvases [B,32h,32w,3] in [0,1]) -> probabilities

    @property
    def step(self) -> int:
        return int(self.card["checkpoint"])

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo.from_meta(self.card["dataset"], self.card, {})

    def predictor(self) -> Predictor:
        """As that of the run: the same canvases, averages and post-processing, for any number of devices."""
        stored = _tuples(self.card["eval"])
        how = Evaluation(**{**stored, "post": Post(**stored["post"])})
        options = Inference(
            canvas=tuple(self.card["canvas"]),
            window=tuple(self.card["window"]),
            mode=how.mode,
            batch_size=how.batch_size,
            flip=how.flip,
            scales=how.scales,
            overlap=how.overlap,
            post=make_post(how.post),
        )
        return Predictor(self.network.call, dict(self.weights), options, self.info.num_classes)


def read(path: str | Path) -> Saved:
    """Reads what `write` wrote. A file that is older than its guarantee is warned of, and tried."""
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path} is no file; --model takes what `semiseg export --format=stablehlo` wrote")
    try:
        with zipfile.ZipFile(path) as file:
            card = json.loads(file.read("card.json"))
            weights = dict(np.load(io.BytesIO(file.read("weights.npz"))))
            parts = {name: bytearray(file.read(name)) for name in ("program.bin", "network.bin")}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ExportError(
            f"{path} is no export of `semiseg export --format=stablehlo`, or only a part of one ({error})"
        ) from error
    if warning := age_warning(card, str(path)):
        logger.warning("%s", warning)
    try:
        with _old_ones_too():
            program, network = map(export.deserialize, parts.values())
    except ImportError:
        raise
    except Exception as error:  # whatever the reader of a format trips over
        with_jax = card.get("versions", {}).get("jax", "unknown")
        raise ExportError(
            f"{path} was exported with jax {with_jax} and jax {jax.__version__} cannot read it ({error}); export the "
            f"run again, or install jax=={with_jax}"
        ) from error
    return Saved(card, weights, program, network)


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()} | {
        name: _tuples(value) for name, value in fields.items() if isinstance(value, dict)
    }


@contextmanager
def _old_ones_too() -> Iterator[None]:
    before = getattr(jax.config, _EXPIRED, None)
    if before is None:
        yield
        return
    jax.config.update(_EXPIRED, True)
    try:
        yield
    finally:
        jax.config.update(_EXPIRED, before)
