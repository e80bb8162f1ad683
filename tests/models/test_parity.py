"""Networks against PyTorch definitions of the same: numbers that PyTorch computed, stored in parity.npz.

Weights and pictures are seeded by name (helpers/random_weights.py), so that only outputs are stored.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from random_weights import fill, make, picture, run_ours, sample

STORED = np.load(Path(__file__).with_name("parity.npz"))
CASES = json.loads(str(STORED["cases"]))


pytestmark = pytest.mark.usefixtures("fast_compilation")


def name(case: dict) -> str:
    return "-".join("x".join(map(str, value)) if isinstance(value, list) else str(value) for value in case.values())


@pytest.mark.parametrize("index", range(len(CASES)), ids=[name(case) for case in CASES])
def test_every_stage_agrees_with_pytorch(index):
    case = {key: tuple(value) if isinstance(value, list) else value for key, value in CASES[index].items()}
    model, image = make(case), picture(case["size"])
    found = run_ours(model, fill(model, image)[0], image)
    stored = {key.split("/")[1] for key in STORED.files if key.startswith(f"{index}/")}
    assert found.keys() == stored
    for stage, values in found.items():
        assert values.shape == tuple(STORED[f"{index}/{stage}/shape"])
        error = np.abs(sample(values) - STORED[f"{index}/{stage}/sample"]).max()
        assert error < 1e-4 * STORED[f"{index}/{stage}/scale"], stage
