"""The page of a report: what it groups, what it says, and that it needs nothing beside it."""

import base64
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from report_runs import CLASSES, make_run

import semiseg_jax
from semiseg_jax.report import plots
from semiseg_jax.report.content import differing, grouped
from semiseg_jax.report.page import page
from semiseg_jax.verbs.report import report

VOID = {"meta", "link", "img", "input", "br"}


class Balance(HTMLParser):
    """Fails where a tag is closed that is not open."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def runs():
    return [
        make_run("crf_seed0", 0),
        make_run("crf_seed1", 1),
        make_run("masks", 0, hits=60, **{"data.labels": "masks"}),
    ]


@pytest.fixture(scope="module")
def shown(runs):
    return page(runs)


def test_runs_that_differ_in_their_seed_and_in_what_they_log_are_one_group(runs):
    groups = grouped(runs)
    assert [[run.name for run in group.runs] for group in groups] == [["crf_seed0", "crf_seed1"], ["masks"]]
    assert [group.name for group in groups] == ["crf_seed", "masks"]
    assert differing(groups) == {"data.labels": ["absent", "masks"]}


def test_the_page_is_html_that_asks_for_nothing(shown):
    balance = Balance()
    balance.feed(shown)
    assert not balance.open
    addresses = re.findall(r'(?:src|href)="([^"]*)"', shown)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.findall(r"@import|url\((?!#|data:)", shown)


def test_names_are_text_and_not_markup(shown):
    assert "<dog>" not in re.sub(r'<script type="application/json">.*?</script>', "", shown, flags=re.S)
    assert "&lt;dog&gt;" in shown
    assert "a &amp; b" in shown


def test_seeds_become_mean_and_spread(runs, shown):
    values = [run.score.numbers["miou"] for run in runs[:2]]
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in shown
    assert f"<td class=number>{runs[2].score.numbers['miou']:.4f}</td>" in shown
    assert "100.0%" in shown
    assert "val: 10 images of 12, spread evenly" in shown


def test_each_plot_says_what_its_points_mean(runs, shown):
    plots = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', shown, re.S)]
    said = [text for points in plots for _, _, text in points]
    assert "crf_seed, step 20: 0.405 ± 0.0071" in said
    assert "masks, step 30: 0.6" in said
    assert sum("taken for" in text for text in said) == 2 * len(CLASSES) ** 2
    assert any(text.startswith("masks: ") and "sure" in text for text in said)
    boxes = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', shown)
    assert len(boxes) == len(plots)
    for points, (width, height) in zip(plots, boxes, strict=True):
        assert all(0 < x < float(width) and 0 < y < float(height) for x, y, _ in points)


def test_losses_have_curves_and_rates_have_none(shown):
    captions = re.findall(r"<figcaption>([^<]+)</figcaption><svg", shown)
    assert captions[:3] == ["mIoU of the evaluations", "loss", "cross entropy"]
    assert not [caption for caption in captions if "rate" in caption or "seconds" in caption]


def test_a_curve_of_one_value_can_be_seen_and_small_plots_stay_small():
    point, line = [(8, 0.5)], [(8, 0.5), (9, 0.6)]
    one, two = (plots.curves("", [plots.Series("a", [values])], "").svg for values in (point, line))
    dot = f"fill: {plots.COLORS[0]}"
    assert dot in one
    assert dot not in two
    widths = [
        int(re.search(r"max-width: (\d+)px", plots.confusion("", np.eye(count), ["x"] * count).svg)[1])
        for count in (2, 20)
    ]
    assert widths[0] < 350 < widths[1]


def test_names_are_no_formulas_and_none_is_left_out():
    shown = plots.curves("loss", [plots.Series("_trial $x^$", [[(0, 1.0), (1, 0.5)]])], "loss").svg
    assert "_trial $x^$" in shown
    counts = np.eye(2, dtype=np.int64)
    assert "_a $\\frac$" in plots.confusion("classes", counts, ["_a $\\frac$", "b"]).svg


def test_names_within_plots_are_used_once(shown):
    ids = re.findall(r'\bid="([^"]+)"', shown)
    assert len(ids) == len(set(ids))


def test_pictures_come_with_the_page(runs, shown):
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/(\w+);base64,([^"]+)"', shown)
    assert len(pictures) == 3 * 3 * len(runs)
    title, kind, data = pictures[1]
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (title, kind) == ("prediction", "png")
    np.testing.assert_array_equal(decoded, runs[0].training[0].views["prediction"])


def test_a_run_without_an_evaluation_and_without_data_still_has_a_page():
    bare = make_run()
    bare = type(bare)(**{**vars(bare), "score": None, "training": (), "worst": (), "unsure": (), "history": []})
    shown = page([bare])
    assert "not measured" in shown
    assert "<h2>Calibration" not in shown
    assert "<h2>Pictures" not in shown


def test_of_a_run_whose_data_are_gone_the_page_has_what_training_measured():
    run = make_run()
    gone = type(run)(**{**vars(run), "score": None, "training": (), "worst": (), "unsure": ()})
    measured = next(row["miou"] for row in run.history if row["kind"] == "eval" and row["step"] == run.checkpoint)
    shown = page([gone])
    assert f">{measured:.4f}<" in shown
    assert "Measured during training, since the data cannot be opened now: first." in shown
    assert "Measured during training" not in page([run])


def test_what_a_report_cannot_be_made_of_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one workdir"):
        report([])
    with pytest.raises(ValueError, match="a workdir of a report is s3://bucket/run, but it must be on a disk"):
        report("s3://bucket/run")
    with pytest.raises(ValueError, match="is not a workdir of `semiseg train`"):
        report(tmp_path)


@pytest.mark.heavy
def test_a_report_of_real_runs_has_their_scores_and_pictures(tiny_config, tmp_path):
    tiny_config.log.report = True
    semiseg_jax.train(tiny_config, tmp_path / "one")
    shown = (tmp_path / "one" / "report.html").read_text()
    results = semiseg_jax.evaluate(tmp_path / "one")
    assert f"{results['miou']:.4f}" in shown
    assert "What training saw" in shown
    assert 'alt="labels given"' in shown
    assert "Worst images first" in shown
