"""How long a step may take on hardware that nobody has tried, from stated numbers: a prediction, not a measurement."""

import dataclasses

from semiseg_jax.engine.hardware import Chip

SHARE = 0.5  # of the stated operations a second that convolutions are assumed to reach
COUNTS = (8, 64, 256)  # devices that scaling is predicted for

FORMULA = f"""A prediction from stated numbers, not a measurement; n devices, each with as many images as here:
  step(1) = max(operations / ({SHARE:g} x peak), bytes between chip and memory / bandwidth)
  step(n) = step(1) + 2 (k-1)/k x sent/link + 2 (m-1)/m x sent/k/network
            in rings of k = min(n, chips that links join) and of m = n/k groups; nothing of it hidden
  efficiency(n) = step(1) / step(n)
Operations are those of convolutions and matrix products."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one step on one device."""

    operations: float  # additions and multiplications of convolutions and matrix products
    traffic: float  # bytes between the chip and its memory
    sent: float  # bytes that are summed over all devices


def step_seconds(work: Work, chip: Chip, dtype: str) -> float:
    """Of one device alone."""
    return max(work.operations / (SHARE * getattr(chip, dtype)), work.traffic / chip.bandwidth)


def sending_seconds(work: Work, chip: Chip, devices: int) -> float:
    """Of summing over so many devices: in rings within groups, then between them.

    >>> from semiseg_jax.engine.hardware import CHIPS
    >>> round(sending_seconds(Work(0, 0, 200e9), CHIPS["v5e"], 2), 3)  # half of it to the other chip, and half back
    1.0
    """
    inside = min(devices, chip.group)
    groups = -(-devices // inside)
    within = 2 * (inside - 1) / inside * work.sent / chip.link
    return within + 2 * (groups - 1) / groups * work.sent / inside / chip.network


def efficiency(work: Work, chip: Chip, dtype: str, devices: int) -> float:
    """Images a second of `devices`, as a share of `devices` times those of one."""
    alone = step_seconds(work, chip, dtype)
    return alone / (alone + sending_seconds(work, chip, devices))
