"""The model card of an export: what the model is, what it learned from, how good it is, how long the file is good."""

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

# What jax promises of a file that jax.export wrote: later versions of jax read it for six months.
GUARANTEE = datetime.timedelta(days=180)
VERSION = 1  # of the card


def stamped(facts: Mapping[str, Any], promise: str) -> dict[str, Any]:
    """The card of a file that is written now; `promise` names whose promise ends with `good_until`, if one does."""
    today = datetime.datetime.now(datetime.UTC).date()
    until = {"good_until": (today + GUARANTEE).isoformat()} if promise else {}
    return {
        "card": VERSION,
        **facts,
        "date": today.isoformat(),
        "versions": {
            "semiseg_jax": _version("semiseg-jax"),
            **{name: _version(name) for name in ("jax", "jaxlib", "flax")},
            "python": platform.python_version(),
        },
        "guarantee": promise or "none is needed: the operators of an ONNX file keep their meaning",
        **until,
    }


def age_warning(card: Mapping[str, Any], name: str, today: datetime.date | None = None) -> str:
    """What is to be said of a file that is older than its guarantee; "" of one that is not."""
    until = datetime.date.fromisoformat(str(card.get("good_until", "9999-12-31")))
    today = today or datetime.datetime.now(datetime.UTC).date()
    if today <= until:
        return ""
    jax = card.get("versions", {}).get("jax", "unknown")
    return (
        f"{name} was exported on {card.get('date')} with jax {jax}. Later versions of jax promised to read it "
        f"until {until}, which is over. It is tried all the same; if it fails, export the run again or install "
        f"jax=={jax}."
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
