"""The scripts of experiments/claims: every run that they would make has a config that can, and a trial is apart."""

import argparse
import importlib
import json
import sys

import cv2
import numpy as np
import pytest
from documents import ROOT, make_place

from semiseg_jax.config import settings

CLAIMS = ROOT / "experiments" / "claims"
SCRIPTS = ("gated_crf", "label_uncertainty", "semi_supervised", "total_variation", "transfer")


@pytest.fixture
def scripts(monkeypatch):
    """A script by its name, imported as if it were started."""
    monkeypatch.syspath_prepend(str(CLAIMS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in (*SCRIPTS, "claims", "papers", "judge"):
        if name not in before:
            sys.modules.pop(name, None)


class Asked(dict):
    """Rows of runs that were not made."""

    def __missing__(self, key):
        return {"run": key, "seed": 0, "miou": 0.5, "iou": dict.fromkeys("abc", 0.5)} | dict.fromkeys(
            ("made_miou", "made_miou_weak", "made_share"), 0.5
        )


@pytest.mark.heavy
@pytest.mark.parametrize("weights", ["", "weights.npz"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_run_of_a_claim_has_a_config_that_can_run(name, weights, scripts, tmp_path, monkeypatch):
    make_place(tmp_path)
    for folder in ("weizmann_horse", "voc_animals", "acdc_scribble", "camvid", "dsb2018_nuclei", "drive"):
        (tmp_path / folder).symlink_to(tmp_path / "DIR")
    (tmp_path / "DIR" / "splits" / "test.txt").write_text("im6\nim7\n")
    claims, script = scripts("claims"), scripts(name)
    made = []

    def run(claim, run, make, seed, split, *, evaluate, **more):
        assert evaluate
        made.append(run)
        settings(make(seed))

    monkeypatch.setattr(claims.Claim, "run", run)
    monkeypatch.setattr(claims.Claim, "_read", lambda claim: Asked())
    monkeypatch.setattr(
        sys, "argv", [name, f"--data={tmp_path}", f"--weights={weights}", f"--runs={tmp_path / 'runs'}", "--seeds=0"]
    )
    script.main()
    assert len(set(made)) >= 7


def test_results_have_every_run_that_papers_are_judged_by(scripts):
    papers = scripts("papers")
    for paper in papers.PAPERS:
        rows = json.loads((ROOT / "experiments" / "results" / f"{paper.name}.json").read_text())
        runs = {row["run"] for row in rows.values()}
        for case in paper.cases:
            assert {case.ours, case.without, case.rival, case.full} - {""} <= runs
        assert (CLAIMS / paper.script).exists()


def test_a_trial_is_short_and_keeps_its_scores_to_itself(scripts, tmp_path):
    claims = scripts("claims")
    trial = claims.Claim("transfer", tmp_path, 0.1)
    assert not trial.rows
    assert tmp_path in trial.path.parents
    assert claims.Claim("transfer", tmp_path).path == ROOT / "experiments" / "results" / "transfer.json"
    config = scripts("gated_crf").config_of(
        argparse.Namespace(data=tmp_path, weights="w.npz"), "camvid", "all masks", 0
    )
    assert claims.shortened(config, 0.1).steps == 80
    assert config.eval.every == 80
    assert config.optimizer.warmup_steps == 10


def test_made_labels_are_scored_where_they_lie_and_at_the_size_at_which_they_are_stored(scripts, tmp_path):
    for folder in ("run/labels", "masks"):
        (tmp_path / folder).mkdir(parents=True)
    truth = np.zeros((20, 40), np.uint8)
    truth[:, 20:] = 3  # a dog, which is weak
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), truth)
    made = np.full((10, 20), 255, np.uint8)  # half the size
    made[:, :5], made[:5, 10:] = 0, 3
    cv2.imwrite(str(tmp_path / "run" / "labels" / "a.png"), made)
    score = scripts("transfer").made_label_scores
    found = score(tmp_path / "masks", ("cat", "cow", "person"), tmp_path / "run")
    assert found == {"made_miou": 1.0, "made_miou_weak": 1.0, "made_share": 0.5}
    made[5:, 10:15] = 0  # and half of what is left of the dog is taken for background
    cv2.imwrite(str(tmp_path / "run" / "labels" / "a.png"), made)
    found = score(tmp_path / "masks", ("cat", "cow", "person"), tmp_path / "run")
    assert found["made_miou_weak"] == pytest.approx(50 / 75)
    # Of weak classes without any such pixel there is nothing to say, and no number that JSON cannot hold.
    assert score(tmp_path / "masks", ("dog",), tmp_path / "run")["made_miou_weak"] == 0.0
