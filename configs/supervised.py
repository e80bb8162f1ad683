"""Cross-entropy on whatever pixels are labelled: the baseline of every comparison.

    semiseg train --config=supervised:path=DIR --workdir=runs/mine
    semiseg train --config=supervised:path=DIR,labels=scribble,crop=160 --workdir=runs/mine
    semiseg train --config=supervised:path=DIR,weights=mnv2.npz,layout=torchvision --workdir=RUN

Arguments: `labels` (the kinds to train on, such as dense+scribble+points) and those of the small-data setting: `path`
of a dataset folder (with `dataset=voc` or another name, of that dataset's tree; or `dataset=shapes` alone), `crop`,
`batch` (images of each micro-batch), `steps`, `weights` (a MobileNetV2 trained on ImageNet, from which a light DeepLab
then starts) and their `layout` (tensorflow or torchvision). Everything else is a field:
--config.optimizer.learning_rate=1e-3.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.presets import changed, data, parse, shared_by, small


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, labels="dense")
    quota = {"data.quota": shared_by(given.labels, given.batch)}
    return changed(default_config("supervised"), data(given), small(given), quota)
