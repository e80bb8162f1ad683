"""The terms that a loss is the sum of: any method can have any of them. A term is one file, and a line here."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from semiseg_jax import registry
from semiseg_jax.methods.terms.absent_tags import AbsentTags
from semiseg_jax.methods.terms.base import (
    Kinds,
    LabelTerm,
    Pictures,
    Sum,
    Term,
    TermInput,
    TermOptions,
    Weighted,
    class_weights,
)
from semiseg_jax.methods.terms.boxes import BoxTerm
from semiseg_jax.methods.terms.cross_entropy import CrossEntropy, MadeLabels
from semiseg_jax.methods.terms.dice import Dice
from semiseg_jax.methods.terms.focal import Focal
from semiseg_jax.methods.terms.gated_crf import GatedCRF
from semiseg_jax.methods.terms.lovasz import Lovasz
from semiseg_jax.methods.terms.total_variation import TotalVariation
from semiseg_jax.options import OptionError

__all__ = [
    "TERMS",
    "Kinds",
    "LabelTerm",
    "Pictures",
    "Sum",
    "Term",
    "TermInput",
    "TermOptions",
    "Weighted",
    "class_weights",
    "known_terms"
]  # fmt: skip

TERMS: Mapping[str, type[Term]] = {
    "cross_entropy": CrossEntropy,
    "made_labels": MadeLabels,
    "total_variation": TotalVariation,
    "gated_crf": GatedCRF,
    "boxes": BoxTerm,
    "absent_tags": AbsentTags,
    "dice": Dice,
    "lovasz": Lovasz,
    "focal": Focal,
}


def known_terms(
    extra: Sequence[str] = (), own: Mapping[str, type[Term]] = MappingProxyType({})
) -> dict[str, type[Term]]:
    """Our terms, those of installed packages, `own` ones of a method, and `extra` ones: each "package.module:Class"."""
    if isinstance(extra, str):
        raise OptionError("config.extra_terms", f"is {extra!r} but must be a tuple, such as ({extra!r},)")
    found = dict(TERMS)
    for name in registry.from_packages("terms"):
        _add(found, name, registry.find(name, {}, "terms"), name)
    for name, term in own.items():
        _add(found, name, term, name)
    for path in extra:
        term = registry.find(path, {}, "terms")
        _add(found, getattr(term, "name", "") or path.rpartition(":")[2].lower(), term, path)
    return found


def _add(found: dict[str, type[Term]], name: str, term: Any, path: str) -> None:
    if not (isinstance(term, type) and issubclass(term, Term)):
        raise ValueError(f"term {path!r} must be a class that derives from semiseg_jax.methods.terms.Term")
    if found.setdefault(name, term) is not term:
        raise ValueError(f"term {path!r} is called {name!r}, as another term is; give its class another `name`")
