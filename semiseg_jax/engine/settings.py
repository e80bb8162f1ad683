"""What one stage of a run does: a config in its typed form, whose every field has been checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from semiseg_jax.data.augment import Augment
from semiseg_jax.data.fields import Data
from semiseg_jax.engine.checkpoints import Checkpoint
from semiseg_jax.engine.inference import Evaluation
from semiseg_jax.engine.optimizers import Optimizer
from semiseg_jax.engine.processes import Distributed
from semiseg_jax.engine.writers import Log
from semiseg_jax.models.pretrained import Pretrained
from semiseg_jax.options import OptionError, Options, option


@dataclasses.dataclass(frozen=True)
class Settings(Options):
    """The fields of a config. Those of terms and of the method are declared beside their code."""

    method: str = option("supervised", "how the networks are trained; `semiseg list methods`, or package.module:Class")
    extra_terms: tuple[str, ...] = option((), 'terms of your own, each "package.module:Class"')
    seed: int = option(0, "of initial weights and of the order of images")
    steps: int = option(1000, "updates of the parameters", low=1)
    batch_size: int = option(
        0, "images per update over all devices; 0 = sum of the quota x devices x accumulate", low=0
    )
    accumulate: int = option(
        1, "micro-batches per update; gradients are averaged, each micro-batch with its own means", low=1
    )
    separate_passes: bool = option(
        False, "rows with a mask and rows without pass the network apart, each with batch statistics of their own"
    )
    parallel: str = option("shard_map", "how steps are mapped over devices", choices=("shard_map", "pmap"))
    devices: int = option(0, "use only the first n devices of a single process; 0 = all", low=0)
    shard_state: bool = option(
        False,
        "each device keeps a part of parameters, averages and optimiser state, and gathers parameters in each step: "
        "the same numbers, and larger networks fit",
    )
    send_as: str = option(
        "float32", "how gradients travel between devices; bfloat16 is half as much", choices=("float32", "bfloat16")
    )
    dtype: str = option("float32", "of the computation; parameters are float32", choices=("float32", "bfloat16"))
    # Batch statistics are those of the current parameters: they follow within tens of steps.
    ema: float = option(0.0, "decay of the averaged parameters that evaluation then uses; 0 = off", low=0, below=1)
    class_weights: tuple[float, ...] = option((), "of every cross-entropy: one a class, or () for none", low=0)
    balance_classes: float = option(
        0.0, "class weights are share ** -this; 0 = unweighted, 1 = every class counts the same", low=0, high=1
    )
    data: Data = Data()  # noqa: RUF009 - frozen
    augment: Augment = Augment()  # noqa: RUF009 - frozen
    model: Mapping[str, Any] = option(
        {"name": "unet", "widths": (24, 48, 96, 128), "norm": "group"}, "name of the network, and its own options"
    )
    pretrained: Pretrained = Pretrained()  # noqa: RUF009 - frozen
    optimizer: Optimizer = Optimizer()  # noqa: RUF009 - frozen
    eval: Evaluation = Evaluation()  # noqa: RUF009 - frozen
    checkpoint: Checkpoint = Checkpoint()  # noqa: RUF009 - frozen
    log: Log = Log()  # noqa: RUF009 - frozen
    distributed: Distributed = Distributed()  # noqa: RUF009 - frozen
    terms: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # name -> options of the term
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # section -> options of the method

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance_classes and self.class_weights:
            raise OptionError("balance_classes", "and class_weights exclude each other")
        if self.checkpoint.metric == "boundary_f" and self.eval.boundary == "never":
            raise OptionError("checkpoint.metric", "is boundary_f, which eval.boundary='never' turns off")
        if self.shard_state and self.parallel != "shard_map":
            raise OptionError("shard_state", f"needs parallel='shard_map', but that is {self.parallel!r}")
        if "name" not in self.model:
            raise OptionError("model", f"is {dict(self.model)!r} but must hold the network's name")

    def replace(self, **changes: Any) -> "Settings":
        """A copy with other values; `data={...}` and other dicts change fields of that part."""
        parts = {
            name: dataclasses.replace(getattr(self, name), **value)
            for name, value in changes.items()
            if isinstance(value, dict) and isinstance(getattr(self, name), Options)
        }
        return dataclasses.replace(self, **{**changes, **parts})
