"""`gated_crf`: clicks or scribbles, and neighbours of similar colour that agree (Obukhov et al., 1906.04651).

    P = softmax(S(x)) at stride 4
    L = CE(S(x), y; labelled pixels) + w(t) sum_ab m(b) k_ab (1 - <P_a, P_b>) / sum_b m(b)

k is a sum of Gaussian kernels over place and colour within a window, m is true on pixels of the image and false on
padding. w is `terms.gated_crf.weight` and starts late (`start`): at first the term, far larger than the cross-entropy,
would decide for one class everywhere.
"""

from semiseg_jax.methods.segmentation import Segmentation


class GatedCRF(Segmentation):
    needs = ("cross_entropy", "gated_crf")
