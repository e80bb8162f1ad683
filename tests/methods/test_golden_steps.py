"""Five steps of each method's small setting, from a fixed seed, give the losses and metrics that are written down."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from method_steps import TinyBackbone
from runs import logged

from semiseg_jax import load_config
from semiseg_jax.models import backbones
from semiseg_jax.verbs.train import train

GOLDEN = Path(__file__).with_name("golden_steps.json")
RENEW = "SEMISEG_RENEW_GOLDEN"
SETTINGS = {
    "supervised": "supervised:labels=dense+scribble",
    "total_variation": "total_variation:rounds=1",
    "gated_crf": "gated_crf:labels=scribble+points",
    "label_uncertainty": "label_uncertainty:masks=0.5",
    "adversarial": "adversarial:labelled=0.5",
    "transfer": "transfer:strong=disk+square+star",
    "mean_teacher": "mean_teacher:labelled=0.5",
    "unimatch": "unimatch:labelled=0.5",
}
MESSAGE = f"""
The steps of method {{method!r}} give other numbers than tests/methods/golden_steps.json holds.
* If the change was not meant to alter what is computed, it has a fault: find it.
* If it was (another default, another form of a loss), write the numbers anew with
    {RENEW}=1 python -m pytest -n 0 tests/methods/test_golden_steps.py
  and commit the file alone with that change, with old and new values in the message.
Another version of jax or another processor may differ in the last digits; the versions are in the file.
"""


def steps_of(method: str, data_dir: str, workdir: Path) -> dict[str, dict[str, list]]:
    """Stage -> metric -> its value after each step."""
    config = load_config(f"{SETTINGS[method]},crop=32,batch=4,steps=5")
    config.data.data_dir, config.data.threads = data_dir, 1
    config.model.widths = (8, 16)
    config.log.update({"every": 1, "tensorboard": False, "panel_rows": 0, "hidden_masks": 0})
    config.eval.update({"max_images": 1, "every": 100})
    if method == "transfer":
        config.transfer.update({"classifier_crop": (32, 32), "cam_scales": (1.0,), "pictures": 0})
    train(config, workdir)
    found: dict[str, dict[str, list]] = {}
    for stage in dict.fromkeys(json.loads(line)["stage"] for line in (workdir / "metrics.jsonl").open()):
        rows = [row for _, row in sorted(logged(workdir, "train", stage).items())]
        names = [name for name in rows[0] if name not in ("stage", "step", "kind")]
        found[stage] = {name: [row[name] for row in rows] for name in names}
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("method", SETTINGS)
def test_steps_give_the_numbers_that_are_written_down(method, data_dir, few_shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "make_backbone", lambda name, /, **options: TinyBackbone(name="backbone"))
    found = steps_of(method, data_dir, tmp_path)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"steps": {}}
    if os.environ.get(RENEW):
        golden = {"jax": jax.__version__, "steps": {**golden["steps"], method: found}}
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
        return
    expected, message = golden["steps"][method], MESSAGE.format(method=method)
    tolerance = 1e-5 if golden["jax"] == jax.__version__ else 1e-3
    assert found.keys() == expected.keys(), message
    for stage, metrics in expected.items():
        assert metrics.keys() <= found[stage].keys(), message
        for name, values in metrics.items():
            np.testing.assert_allclose(
                found[stage][name], values, rtol=tolerance, atol=tolerance, err_msg=f"{message}\n{stage}: {name}"
            )
