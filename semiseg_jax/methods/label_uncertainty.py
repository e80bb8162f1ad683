"""`label_uncertainty`: few exact masks and many boxes (Neven et al., 2110.05926).

    mu, v = S(x)                                                         class logits and one variance a pixel
    L = CE(softmax(mu), y; exact masks) + L_boxes(mu, v)                 see boxes.py

In the scope `weak_in_box` the variance tempers only pixels inside boxes of box images, so exact masks keep mu honest
and v absorbs the disagreement; in the scope `all` it tempers every pixel. Prediction is argmax mu.
"""

from semiseg_jax.methods.segmentation import Segmentation


class LabelUncertainty(Segmentation):
    needs = ("cross_entropy", "boxes")
