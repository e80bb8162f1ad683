"""`semiseg convert-weights`: weights of other libraries, or of a run, as a file that needs none of them."""

import dataclasses
from pathlib import Path

from semiseg_jax.data.remote import address_of
from semiseg_jax.models import pretrained


def convert_weights(source: str | Path, output: str | Path, *, layout: str = "") -> pretrained.Weights:
    """Writes the weights of a file or of a workdir's best checkpoint to `output`, an .npz for `config.pretrained.path`.

    Args:
      source: what `models.pretrained.load` reads, or the workdir of a run.
      output: it must not exist yet.
      layout: that the weights fit, where the names do not tell: "caffe" for its ResNets under torchvision's names.
    """
    if address_of(source) or Path(source).is_dir():
        from semiseg_jax.verbs.workdir import load

        trained = load(source)
        weights = pretrained.of_variables(
            trained.variables, layout=trained.config.model.get("layout", ""), source=str(source)
        )
    else:
        weights = pretrained.read(source)
    if layout:
        weights = dataclasses.replace(weights, layouts=(layout,))
    pretrained.save(output, weights)
    numbers = sum(tensor.size for tensor in weights.tensors.values())
    print(f"{weights.source}: {weights.dialect}, layout {' or '.join(weights.layouts) or 'any'}")
    print(f"{output}: {numbers:,} numbers in {len(weights.tensors)} tensors, sha256 {weights.checksum[:16]}")
    return weights
