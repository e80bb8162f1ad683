"""Few masks and many boxes, with a learned uncertainty inside the boxes (Neven et al., arXiv 2110.05926).

    semiseg train --config=label_uncertainty:path=DIR --workdir=runs/boxes
    semiseg train --config=label_uncertainty:path=DIR,masks=9,weights=mnv2.npz,layout=torchvision --workdir=R
    semiseg train --config=label_uncertainty:setting=paper,dataset=cityscapes,path=DIR,weights=resnet50.npz --workdir=R

Arguments: `masks`, which training images bring their mask: all that have one (as a folder does by default, beside all
boxes that it has), or a share (0.18), a number (50), a split, or a published list (`cityscapes:u2pl:1/8`; `semiseg list
splits`), and all others bring boxes, which are then drawn from their masks unless the folder has them (`simulated`);
and those of the small-data setting, which `supervised` explains. Class 0 must be background. Rivals of the comparison
are fields: boxes as masks are --config.terms.boxes.inside=foreground, only what is outside of boxes is
--config.terms.boxes.inside=ignore.

With dataset=cityscapes the classes are background, vehicle and person, and boxes are those of instances.

`setting=paper` is our protocol for Cityscapes' vehicles and persons (three classes, boxes from instances, at half
resolution): of the paper's only the data, the share of masks and the loss are documented. The weight of what is inside
(`inside_weight`) and the variance of a wrong label (`bootstrap_variance`) are those that small data gave.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.presets import (
    Fields,
    changed,
    crops,
    data,
    deeplab_v3plus,
    half_masks,
    parse,
    sgd,
    simulated,
    small,
    some_masks,
)


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, setting=("small", "paper"), masks="", simulated=True)
    setting = {"small": small_data, "paper": paper}[given.setting]
    fields = {"terms.boxes.weight": 1.0}
    return changed(default_config("label_uncertainty"), data(given), things(given), setting(given), fields)


def things(given: ConfigDict) -> Fields:
    """Of Cityscapes, the classes of which there are instances."""
    return {"data.options": {"classes": "vehicles+persons"}} if given.dataset == "cityscapes" else {}


def drawn(given: ConfigDict) -> Fields:
    """Boxes of regions, where a set has none of its own; Cityscapes has those of instances."""
    return {} if given.dataset == "cityscapes" else simulated(given, "box")


def small_data(given: ConfigDict) -> Fields:
    masks = some_masks(given, given.masks, "box", share="0.18")
    return {
        **small(given),
        **half_masks(given.batch, "box"),
        **masks,
        **(drawn(given) if given.simulated and masks else {}),
        "separate_passes": True,
        "log.hidden_masks": 32,
    }


def paper(given: ConfigDict) -> Fields:
    return {
        **some_masks(given, given.masks or "0.18", "box", share="0.18"),
        **drawn(given),
        **deeplab_v3plus("resnet50", given.weights),
        **crops(512, (0.5, 2.0)),
        **sgd(0.01, 1e-4),
        "steps": 40_000,
        "batch_size": 16,
        "data.quota": {"dense": 1, "box": 1},
        "data.canvas": (512, 1024),  # so images are stored at half their size, as training sees them
        "terms.boxes.inside_weight": 1.0,
        "terms.boxes.mean_start": 0.0,
        "terms.boxes.bootstrap_variance": 7.64,  # 3 * 8 / pi
        "log.hidden_masks": 32,
        "eval.every": 4000,
    }
