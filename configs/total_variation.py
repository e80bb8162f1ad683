"""Few random pixels and total variation of the prediction (Javanmardi et al., arXiv 1605.01368).

    semiseg train --config=total_variation:path=DIR --workdir=runs/tv
    semiseg train --config=total_variation:path=DIR,fraction=0.001,weight=1.0 --workdir=runs/tv
    semiseg train --config=total_variation:setting=paper,dataset=weizmann_horse,path=DIR --workdir=runs/tv
    semiseg evaluate --workdir=runs/tv --post=mrf

Arguments: `fraction` of the pixels of each mask that training sees (drawn once, with --config.data.seed), `weight` of
the total variation, `labels` (`partial`, or dense, scribble, points where the folder has them: then nothing is
drawn), and those of the small-data setting, which `supervised` explains. Boundaries at edges of the image, where
weights of 20 to 50 suit: --config.terms.total_variation.contrast=0.1.

Thin structures, such as vessels and cracks: `thin=true`. The term then spares lines (norm=curvilinear), and its weight
is 0.1 unless another is given; the plain one erases them.

`rounds=2` goes on for half as many updates from labels that graph cuts make of the predictions on the training images
(needs PyMaxflow); what a boundary costs there is --config.rounds.cut.beta, to be chosen as that of
`evaluate --post=mrf` is. The term may then be off, `weight=0`. Where colours tell the classes apart within an image:
--config.rounds.cut.color=3.0 (and, for post-processing, --config.eval.post.color=3.0).

`setting=paper` is the protocol for Weizmann horses, Stanford background and SIFT Flow (dataset=weizmann_horse,
stanford_background or sift_flow, with path=DIR the tree that their authors publish; `semiseg list datasets`): from
scratch, 20,000 updates at batch 8 (800 epochs of the 200 horses), flips and scales from 0.5 to 2, images stored as they
are. The paper's networks, length of training and weight are not documented; the compact U-Net and the numbers here are
ours, and the weight is to be chosen for each fraction (0.01, 0.03, 0.1, 0.3, 1, 3), on images held out from training:
--config.data.options='{"val": 40}'.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.presets import Fields, changed, data, parse, published_images, shared_by, simulated, small


def get_config(arg: str = "") -> ConfigDict:
    given = arguments(arg, weight=0.3)
    if given.thin:
        given = arguments(arg, weight=0.1)
    setting = {"small": small_data, "paper": paper}[given.setting]
    return changed(
        default_config("total_variation"),
        data(given),
        pixels(given),
        {"terms.total_variation.norm": "curvilinear"} if given.thin else {},
        setting(given),
        {
            "terms.total_variation.weight": given.weight,
            "rounds.number": given.rounds,
        },
    )


def arguments(arg: str, weight: float) -> ConfigDict:
    """`weight` holds where `arg` gives none."""
    return parse(
        arg,
        from_scratch=True,
        setting=("small", "paper"),
        labels="partial",
        fraction=0.01,
        weight=weight,
        thin=False,
        rounds=1,
    )


def pixels(given: ConfigDict) -> Fields:
    """A share of the pixels of each mask, drawn once."""
    if "partial" not in given.labels.split("+"):
        return {}
    drawn = simulated(given, "partial", fraction=given.fraction)
    if not drawn and given.fraction != 0.01:
        name = data(given)["data.name"]
        raise ValueError(f"fraction draws from masks of files, path=DIR; {name} comes with 0.01")
    return drawn


def small_data(given: ConfigDict) -> Fields:
    return {**small(given), "data.quota": shared_by(given.labels, given.batch)}


def paper(given: ConfigDict) -> Fields:
    if given.weights:
        raise ValueError("setting=paper trains from scratch; leave weights out")
    return {
        **published_images(given),
        "model": {"name": "unet", "widths": (32, 64, 128, 256), "norm": "batch"},
        "steps": 20_000,
        "batch_size": 8,
        "data.quota": shared_by(given.labels, 1 + given.labels.count("+")),
        "augment.crop": (256, 256),
        "augment.scale": (0.5, 2.0),
        "augment.jitter": 0.0,
        "optimizer.learning_rate": 1e-3,
        "optimizer.schedule": "poly",
    }
