"""`supervised`: cross-entropy on every pixel that has a label, the baseline of every comparison.

    L = CE over labelled pixels (full masks, scribbles, clicks, random pixels alike)

Rows without labelled pixels (boxes, tags, unlabelled) add nothing, unless a further term is turned on.
"""

from semiseg_jax.methods.segmentation import Segmentation


class Supervised(Segmentation):
    needs = ("cross_entropy",)
