"""semiseg_jax: semantic segmentation in JAX from whatever labels you can afford.

    import semiseg_jax
    from semiseg_jax import losses            # jax only
    config = semiseg_jax.load_config("gated_crf:path=DIR")
    result = semiseg_jax.train(config, "runs/first")
    semiseg_jax.evaluate("runs/first")
    semiseg_jax.predict("runs/first", ["photos/"])

Importing the package is cheap; the verbs load what they need when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semiseg_jax.config import default_config
    from semiseg_jax.config_files import load_config
    from semiseg_jax.data.types import Batch, Supervision
    from semiseg_jax.notebook.canvas import LabelCanvas
    from semiseg_jax.verbs.convert_weights import convert_weights
    from semiseg_jax.verbs.evaluate import evaluate
    from semiseg_jax.verbs.export import export
    from semiseg_jax.verbs.export_labels import export_labels
    from semiseg_jax.verbs.import_labels import import_labels
    from semiseg_jax.verbs.inspect import inspect
    from semiseg_jax.verbs.predict import predict
    from semiseg_jax.verbs.preflight import preflight
    from semiseg_jax.verbs.prepare import prepare
    from semiseg_jax.verbs.report import report
    from semiseg_jax.verbs.summary import summary
    from semiseg_jax.verbs.train import train
    from semiseg_jax.verbs.workdir import load

__version__ = "0.2.0"
__all__ = [
    "Batch", "LabelCanvas", "Supervision", "convert_weights", "default_config", "evaluate", "export", "export_labels",
    "import_labels", "inspect", "load", "load_config", "predict", "preflight", "prepare", "report", "summary", "train",
]  # fmt: skip

_HOMES = {
    "Batch": "semiseg_jax.data.types",
    "LabelCanvas": "semiseg_jax.notebook.canvas",
    "Supervision": "semiseg_jax.data.types",
    "convert_weights": "semiseg_jax.verbs.convert_weights",
    "default_config": "semiseg_jax.config",
    "evaluate": "semiseg_jax.verbs.evaluate",
    "export": "semiseg_jax.verbs.export",
    "export_labels": "semiseg_jax.verbs.export_labels",
    "import_labels": "semiseg_jax.verbs.import_labels",
    "inspect": "semiseg_jax.verbs.inspect",
    "load": "semiseg_jax.verbs.workdir",
    "load_config": "semiseg_jax.config_files",
    "predict": "semiseg_jax.verbs.predict",
    "preflight": "semiseg_jax.verbs.preflight",
    "prepare": "semiseg_jax.verbs.prepare",
    "report": "semiseg_jax.verbs.report",
    "summary": "semiseg_jax.verbs.summary",
    "train": "semiseg_jax.verbs.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'semiseg_jax' has no attribute {name!r}")
