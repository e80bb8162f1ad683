"""Writes what was measured into the documents, from the rows of `experiments/results/*.json` and nothing else:

    python experiments/results_page.py            # needs matplotlib for the pictures
    python experiments/results_page.py --check    # names what is not up to date, and writes nothing

`experiments/results/README.md` has, for each paper, its claim, our rule, whether it holds, every seed and a picture;
below stand notes of `experiments/claims/notes/`. Their text is written by people, numbers of rows are filled in:
{NAME: RUN} stands for the mIoU of all seeds of a run, {NAME: RUN; mean} for their mean, {NAME: RUN; 0-3} for some.
Beside the page, blocks <!-- name --> ... <!-- /name --> of other documents are filled: see `blocks`.
"""

import argparse
import hashlib
import json
import re
import statistics
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXPERIMENTS = Path(__file__).parent
ROOT, RESULTS, NOTES = EXPERIMENTS.parent, EXPERIMENTS / "results", EXPERIMENTS / "claims" / "notes"
if str(EXPERIMENTS / "claims") not in sys.path:
    sys.path.append(str(EXPERIMENTS / "claims"))

from judge import by_seed, holds, mean, rows_of, scores, shares, verdict  # noqa: E402
from papers import PAPERS, Paper  # noqa: E402

COLORS = {"ours": "#2a6fb0", "without": "#d9822b", "rival": "#3d8f5f", "full": "#777777"}
HEAD = """# Results

What the papers behind the methods claim, and what our runs say. `python experiments/results_page.py` writes this page
from the rows in `experiments/results/*.json`; it is not edited by hand.

Numbers are mean IoU on images that were not trained on, by seed. All runs of a comparison have the same network, crops,
labelled images and number of updates. Runs are short, 4 to 30 minutes on one CPU core, and sets are small: what is
compared are runs with each other, not with the tables of papers. All masks are no ceiling in runs this short.
`python experiments/claims/NAME.py` repeats them.

**The rule.** "Better" means: on every seed that both have, where there are two or three; by more than two standard
errors of the mean difference, where there are more. Shares compare means."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary() -> str:
    rows = []
    for paper in PAPERS:
        for number, rule in enumerate(paper.rules):
            first = [f"[{paper.title}](#{anchor(paper.title)})"] if not number else [""]
            shown = [shares(paper), paper.published] if not number else ["", ""]
            rows.append([*first, rule.says, holds(paper, rule), *shown])
    return table(["paper", "rule", "holds?", "share of all masks, ours", "share in the paper"], rows)


def anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def cases_table(paper: Paper) -> str:
    rivals = [case.rival_is for case in paper.cases if case.rival]
    columns = ["without", *(["rival"] if rivals else []), "full"]
    names = {"without": "without the method", "rival": "rival", "full": "all masks"}
    rows = []
    for case in paper.cases:
        cells = [by_seed(scores(paper.name, name)) if (name := getattr(case, column)) else "" for column in columns]
        if case.rival:
            cells[1] = f"{case.rival_is}: {cells[1]}"
        share = f"{mean(scores(paper.name, case.ours)) / mean(scores(paper.name, case.full)):.3f}" if case.full else ""
        rows.append([case.what, f"**{by_seed(scores(paper.name, case.ours))}**", *cells, share])
    return table(["images and labels", "the method", *(names[c] for c in columns), "share of all masks"], rows)


def verdict_table(paper: Paper) -> str:
    whose = {"paper": "", "ours": " (changes of ours)", "others": " (another method)"}
    rows = []
    for case in paper.cases:
        found = [verdict(paper, case, rule) for rule in paper.rules]
        cells = [f"{'**yes**' if result[0] else 'no'}: {result[1]}" if result else "" for result in found]
        rows.append([case.what + whose[case.of], *cells])
    return table(["images and labels", *(rule.says.rstrip(".") + "?" for rule in paper.rules)], rows)


def all_runs(paper: Paper) -> str:
    by_run: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows_of(paper.name).values(), key=lambda row: (row["run"], row["seed"])):
        by_run.setdefault(row["run"], []).append(row)
    shown = {run: rows for run, rows in by_run.items() if not run.startswith("choose ")}
    lines = []
    for run, rows in shown.items():
        found = {row["seed"]: row["miou"] for row in rows}
        seeds = ", ".join(map(str, found))
        lines.append([run, str(rows[0]["steps"]), seeds, by_seed(found), f"{mean(found):.3f}"])
    machines = sorted({row.get("device", "not noted") for row in rows_of(paper.name).values()})
    hidden = len(by_run) - len(shown)
    more = f" {hidden} runs more, by which weights were chosen on held-out images, are in the file." if hidden else ""
    measured = f"All runs of `{paper.name}.json`, measured by `experiments/claims/{paper.script}` on: "
    text = f"{measured}{', '.join(machines)}.{more}"
    return f"{wrapped(text)}\n\n{table(['run', 'updates', 'seeds', 'mIoU by seed', 'mean'], lines)}"


def notes(paper: Paper) -> str:
    return filled((NOTES / f"{paper.name}.md").read_text().strip())


def filled(text: str) -> str:
    """A note with the numbers that its placeholders ask for."""

    def number(found: re.Match[str]) -> str:
        of = scores(found["name"], found["run"].strip())
        if found["seeds"]:
            first, last = map(int, found["seeds"].split("-"))
            of = {seed: value for seed, value in of.items() if first <= seed <= last}
        return f"{mean(of):.3f}" if found["mean"] else by_seed(of)

    form = r"\{(?P<name>\w+): (?P<run>[^{};]+)(?:; (?:(?P<mean>mean)|(?P<seeds>\d+-\d+)))?\}"
    return re.sub(form, number, text)


def wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    parts = [HEAD, summary()]
    for paper in PAPERS:
        more = paper.page or paper.name
        parts += [
            f"## {paper.title}",
            f"[{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}), [what our code does](../../docs/methods/{more}.md)",
            wrapped(f"**Claim.** {paper.claims}"),
            wrapped(f"**Share of full supervision in the paper**: {paper.published}."),
            verdict_table(paper),
            f"![mIoU of each run by seed]({paper.name}.svg)",
            cases_table(paper),
            notes(paper),
            f"### {paper.title}: all runs",
            all_runs(paper),
        ]
    parts += [(NOTES / "how_long.md").read_text().strip()]
    return "\n\n".join(parts) + "\n"


def method_block(paper: Paper) -> str:
    """For the page of the method: the verdicts and the numbers."""
    link = f"[All runs and notes](../../experiments/results/README.md#{anchor(paper.title)})."
    lines = [f"* {rule.says.rstrip('.')}: {holds(paper, rule)}." for rule in paper.rules]
    return "\n\n".join([wrapped(f"The claim: {paper.claims}"), "\n".join(lines), cases_table(paper), link])


def which_block() -> str:
    """The table "which method?"."""

    def of(name: str, run: str) -> str:
        return f"{mean(scores(name, run)):.3f}"

    def gain(name: str, without: str, ours: str) -> str:
        before, after = scores(name, without), scores(name, ours)
        both = before.keys() & after.keys()
        return " to ".join(f"{statistics.fmean(which[seed] for seed in both):.3f}" for which in (before, after))

    few, boxes, crf, variation, other = (
        "semi_supervised",
        "label_uncertainty",
        "gated_crf",
        "total_variation",
        "transfer",
    )
    rows = [
        ["masks", "`supervised`", "the baseline", "rare classes: `balance_classes`, `terms.dice`"],
        [
            "scribbles",
            "`gated_crf:labels=scribble`",
            f"hearts {gain(crf, 'acdc_scribble partial cross-entropy', 'acdc_scribble gated CRF')}, "
            f"streets {gain(crf, 'camvid partial cross-entropy', 'camvid gated CRF')}",
            "`supervised:labels=scribble`",
        ],
        [
            "clicks",
            "`gated_crf:labels=points`",
            f"animals {gain(crf, 'voc_animals partial cross-entropy', 'voc_animals gated CRF')}",
            "draw scribbles",
        ],
        [
            "a few random pixels",
            "`total_variation:rounds=2`, with contrast and colours",
            f"horses {gain(variation, 'scratch 0.1 % pCE', 'scratch 0.1 % TV 50, 2 rounds of colours')}",
            f"`evaluate --post=mrf` after `supervised`: {of(variation, 'scratch 0.1 % pCE + colour MRF')}",
        ],
        [
            "few masks, many boxes",
            "`label_uncertainty`",
            f"animals {gain(boxes, 'voc_animals masks alone', 'voc_animals masks and boxes')}, "
            f"nuclei {gain(boxes, 'dsb2018_nuclei masks alone', 'dsb2018_nuclei masks and boxes')}",
            "`supervised` where few masks are enough",
        ],
        [
            "few masks, many plain images",
            "`adversarial`",
            f"animals {gain(few, 'voc_animals 1/8 of the masks', 'voc_animals adversarial')}",
            f"`unimatch` ({gain(few, 'voc_animals 1/8 of the masks', 'voc_animals unimatch')}); train longer",
        ],
        [
            "masks of some classes, tags of all",
            "`transfer`",
            "animals "
            + " and ".join(gain(other, f"split {s} labels from cam", f"split {s} labels from l_net") for s in "AB"),
            "a few masks of the other classes",
        ],
        ["nothing", "label ten images", "", "then `semiseg export-labels` draws the next ones"],
    ]
    return table(["you have", "start with", "gain seen (mIoU)", "otherwise"], rows)


def quickstart_block() -> str:
    """What the first run gives: the one place for these numbers is `quickstart.json`."""
    rows = json.loads((RESULTS / "quickstart.json").read_text())
    runs = {run: [row for row in rows if row["run"] == run] for run in dict.fromkeys(row["run"] for row in rows)}
    now = runs["now"]
    miou = statistics.mean(row["miou"] for row in now)
    seconds = statistics.mean(sum(row["seconds"].values()) for row in now)
    text = (
        f"After the installation the line takes {seconds / 60:.1f} minutes on two x86 cores, and `semiseg evaluate` "
        f"prints mIoU {now[0]['miou']:.3f}; the mean of {len(now)} seeds is {miou:.3f}. What labels are worth: mean "
        "IoU on the 96 validation scenes after the same number of updates, by seed (which also chooses the 12 scenes)."
    )
    shown = [
        [
            of[0]["what"],
            f"`{of[0]['flags']}`" if of[0]["flags"] else "as it is",
            " ".join(f"{row['miou']:.3f}" for row in of),
        ]
        for run, of in runs.items()
        if run != "older"
    ]
    return f"{wrapped(text)}\n\n{table(['labels', '`semiseg train --config=quickstart`', 'mIoU'], shown)}"


def blocks() -> list[tuple[Path, str, str]]:
    """Document, name of the block, and what belongs into it."""
    docs = ROOT / "docs"
    pages = [(docs / "methods" / f"{paper.page or paper.name}.md", "results", method_block(paper)) for paper in PAPERS]
    return [
        *((path, "quickstart", quickstart_block()) for path in (ROOT / "README.md", docs / "index.md")),
        *((path, "which", which_block()) for path in (ROOT / "README.md", docs / "methods" / "index.md")),
        *pages,
    ]


def documents() -> dict[Path, str]:
    """Every document that this file has a part in, as it ought to be."""
    texts = {RESULTS / "README.md": page()}
    for path, name, content in blocks():
        text = texts.get(path) or path.read_text()
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (start and end):
            raise ValueError(f"{path.relative_to(ROOT)} has no block <!-- {name} --> ... <!-- /{name} -->")
        texts[path] = f"{before}{start}\n\n{content}\n\n{end}{after}"
    return texts


def digest(paper: Paper) -> str:
    """Of the numbers that the picture shows, which it carries: versions of matplotlib write other files."""
    return hashlib.sha256(cases_table(paper).encode()).hexdigest()[:16]


def picture_is_current(paper: Paper) -> bool:
    path = RESULTS / f"{paper.name}.svg"
    return path.exists() and digest(paper) in path.read_text()


def draw(paper: Paper) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": paper.name, "font.size": 8})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.55 * len(paper.cases) + 0.9), layout="constrained")
    names = {"ours": "the method", "without": "without it", "rival": "rival", "full": "all masks"}
    for kind, color in COLORS.items():
        points = [
            (value, -place + 0.2 - 0.13 * list(COLORS).index(kind))
            for place, case in enumerate(paper.cases)
            if getattr(case, kind)
            for value in scores(paper.name, getattr(case, kind)).values()
        ]
        if points:
            marker = "|" if kind == "full" else "o"
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=22, c=color, marker=marker, label=names[kind], alpha=0.8)
    labels = [textwrap.fill(case.what.replace("`", ""), 52) for case in paper.cases]
    axes.set_yticks([-place for place in range(len(labels))], labels)
    axes.set_xlabel("mean IoU, one mark a seed")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=4, frameon=False)
    metadata = {"Date": None, "Creator": None, "Description": digest(paper)}
    figure.savefig(RESULTS / f"{paper.name}.svg", metadata=metadata)
    pyplot.close(figure)


def outdated() -> list[str]:
    """Names of documents and pictures that do not say what the rows say."""
    texts = {path for path, text in documents().items() if not path.exists() or path.read_text() != text}
    pictures = {RESULTS / f"{paper.name}.svg" for paper in PAPERS if not picture_is_current(paper)}
    return sorted(str(path.relative_to(ROOT)) for path in texts | pictures)


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the page of results, its pictures, and blocks of documents.")
    parser.add_argument("--check", action="store_true", help="only say what is not up to date")
    check, old = parser.parse_args().check, outdated()
    if not check:
        for path, text in documents().items():
            path.write_text(text)
        for paper in PAPERS:
            if not picture_is_current(paper):
                draw(paper)
    for name in old:
        print(f"{'not up to date' if check else 'written'}: {name}")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
