"""The terms that a loss is the sum of: any method can have any of them. A term is one file, and a line here."""

from collections.abc import Mapping, Sequence

from semiseg_jax import registry
from semiseg_jax.methods.terms.absent_tags import AbsentTags
from semiseg_jax.methods.terms.base import Kinds, Pictures, Sum, Term, TermOptions, View, Weighted, class_weights
from semiseg_jax.methods.terms.boxes import BoxTerm
from semiseg_jax.methods.terms.cross_entropy import CrossEntropy, MadeLabels
from semiseg_jax.methods.terms.dice import Dice
from semiseg_jax.methods.terms.focal import Focal
from semiseg_jax.methods.terms.gated_crf import GatedCRF
from semiseg_jax.methods.terms.lovasz import Lovasz
from semiseg_jax.methods.terms.total_variation import TotalVariation

__all__ = [
    "TERMS", "Kinds", "Pictures", "Sum", "Term", "TermOptions", "View", "Weighted", "class_weights", "known_terms"
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


def known_terms(extra: Sequence[str] = ()) -> dict[str, type[Term]]:
    """Our own terms, those of installed packages, and `extra` ones, "package.module:Class", whose `name` is theirs."""
    found = dict(TERMS)
    for name in registry.from_packages("terms"):
        found[name] = registry.find(name, {}, "terms")
    for path in extra:
        term = registry.find(path, {}, "terms")
        found[getattr(term, "name", term.__name__.lower())] = term
    return found
