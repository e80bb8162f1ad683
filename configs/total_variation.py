"""Few random pixels and total variation of the prediction (Javanmardi et al., arXiv 1605.01368).

    semiseg train --config=total_variation:path=DIR --workdir=runs/tv
    semiseg train --config=total_variation:path=DIR,fraction=0.001,weight=1.0 --workdir=runs/tv
    semiseg evaluate --workdir=runs/tv --post=mrf

Arguments: `fraction` of the pixels of each mask that training sees (drawn once, with --config.data.seed), `weight` of
the total variation, `labels` (`partial`, or dense, scribble, points where the folder has them: then nothing is
drawn), and those of the small-data setting, which `supervised` explains. Thin structures:
--config.terms.total_variation.norm=curvilinear. Boundaries at edges of the image, where weights of 20 to 50 suit:
--config.terms.total_variation.contrast=0.1.

`rounds=2` goes on for half as many updates from labels that graph cuts make of the predictions on the training images
(needs PyMaxflow); what a boundary costs there is --config.total_variation.cut.beta, to be chosen as that of
`evaluate --post=mrf` is. The term may then be off, `weight=0`. Where colours tell the classes apart within an image:
--config.total_variation.cut.color=3.0 (and, for post-processing, --config.eval.post.color=3.0).

`setting=paper` is the protocol for Weizmann horses, Stanford background and SIFT Flow: from scratch, 20,000
updates at batch 8 (800 epochs of the 200 horses), flips and scales from 0.5 to 2. The paper's networks, length of
training and weight are not documented; the compact U-Net and the numbers here are ours, and the weight is to be chosen
on validation images, for each fraction (0.01, 0.03, 0.1, 0.3, 1, 3).
"""

from ml_collections import ConfigDict

from semiseg_jax.presets import parse, shared_by, simulate, small


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, setting=("small", "paper"), labels="partial", fraction=0.01, weight=0.3, rounds=1)
    config = small(given)
    config.method = "total_variation"
    config.data.quota = shared_by(given.labels, given.batch)
    if "partial" in given.labels.split("+"):
        if config.data.name != "folder" and given.fraction != 0.01:
            raise ValueError(f"fraction draws from masks of a folder, path=DIR; {config.data.name} comes with 0.01")
        simulate(config, "partial", fraction=given.fraction)
    config.terms.total_variation.weight = given.weight
    config.total_variation.rounds = given.rounds
    if given.setting == "paper":
        if given.weights:
            raise ValueError("setting=paper trains from scratch; leave weights out")
        config.ema = 0.0
        config.steps = 20_000
        config.augment.crop = (256, 256)
        config.augment.jitter = 0.0
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "poly"
        config.model.widths = (32, 64, 128, 256)
    return config
