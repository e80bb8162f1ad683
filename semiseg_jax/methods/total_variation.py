"""`total_variation`: few random pixels, and predictions that are piecewise smooth (Javanmardi et al., 1605.01368).

    P = softmax(S(x))                                                    at full resolution
    L = CE(P, y; labelled pixels) + lambda(t) TV(P; all valid pixels)

lambda is `terms.total_variation.weight`, 0 at first and then growing (`start`, `ramp`): a constant prediction is a
minimum of TV, so the network must know something before it counts. `norm` picks the anisotropic (l1), isotropic (l2) or
curvilinear form. The paper's rival, a Markov random field after training, is `semiseg evaluate --post=mrf`.
"""

from semiseg_jax.methods.segmentation import Segmentation


class TotalVariation(Segmentation):
    needs = ("cross_entropy", "total_variation")
