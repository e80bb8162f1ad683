"""What each paper claims, which runs of ours it is judged by, and the rule. No number of ours stands here.

`experiments/results_page.py` judges and writes; the runs are those of `experiments/results/NAME.json`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    """One set of images and labels. All fields but `what` and `rival_is` are names of runs."""

    what: str
    ours: str
    without: str  # the same labels without the method
    rival: str = ""
    rival_is: str = ""
    full: str = ""  # all masks
    of: str = "paper"  # or "ours", with changes of ours; or "others", methods beside it


@dataclasses.dataclass(frozen=True)
class Rule:
    """`against` is "without" or "rival", or "full", of which `share` must be reached."""

    says: str
    against: str
    share: float = 0.0


@dataclasses.dataclass(frozen=True)
class Paper:
    name: str  # of the .json, and of the page of the method where that is not another
    title: str
    arxiv: str
    claims: str
    published: str  # shares of full supervision in the paper
    rules: tuple[Rule, ...]
    cases: tuple[Case, ...]
    script: str  # what measures it
    page: str = ""


BEATS = "Better than the same labels without the method."
HORSES = "Weizmann horses"
ANIMALS = "Pascal VOC animals at half their size"


def _variation(network: str, percent: str, run: str, what: str, of: str = "paper") -> Case:
    start = f"{network} {percent} %"
    return Case(
        f"{what}, {percent} % of the pixels of 200 masks",
        ours=f"{start} {run}",
        without=f"{start} pCE",
        rival=f"{start} pCE + MRF",
        rival_is="MRF after cross-entropy",
        full="scratch 100 % pCE" if network == "scratch" else "",
        of=of,
    )


TOTAL_VARIATION = Paper(
    "total_variation",
    "Total variation",
    "1605.01368",
    "With few labelled pixels, training with total variation is better than training without it, by more than a Markov "
    "random field after training is.",
    "not documented in what could be read of the paper",
    (Rule(BEATS, "without"), Rule("Better than a tuned Markov random field (MRF) after training without it.", "rival")),
    (
        _variation("two levels", "0.1", "TV 3", "Horses, a U-Net of two levels from scratch"),
        _variation("two levels", "1", "TV 0.3", "Horses, a U-Net of two levels from scratch"),
        _variation("ImageNet", "0.1", "TV 0.3", "Horses, from ImageNet weights"),
        _variation("ImageNet", "1", "TV 0.3", "Horses, from ImageNet weights"),
        _variation("scratch", "0.1", "TV 50", "Horses, a U-Net of five levels from scratch, `contrast=0.1`", "ours"),
        _variation("scratch", "1", "TV 50", "Horses, a U-Net of five levels from scratch, `contrast=0.1`", "ours"),
        _variation(
            "scratch", "0.1", "TV 50, 2 rounds of colours", "That, and two rounds with colours in the cuts", "ours"
        ),
        Case(
            "Retinal vessels (DRIVE), 1 % of the pixels of 20 masks, `thin=true`",
            ours="vessels TV, thin",
            without="vessels pCE",
            of="ours",
        ),
    ),
    "total_variation.py",
)

TRANSFER = Paper(
    "transfer",
    "Transfer to other classes",
    "1711.06828",
    "Masks of half of the classes and tags of the others reach nearly what masks of all classes reach.",
    "0.965 with masks of half of Pascal VOC's classes, 0.894 with masks of other data",
    (
        Rule("Labels from object maps are better than labels from activation maps alone.", "without"),
        Rule("At least 0.965 of all masks, as in the paper.", "full", 0.965),
    ),
    (
        Case(
            f"{ANIMALS}: masks of cat, cow and person (375 images), tags of 562",
            ours="split A labels from l_net",
            without="split A labels from cam",
            full="all masks",
        ),
        Case(
            "The same: masks of dog, horse, sheep and person (554 images), tags of 383",
            ours="split B labels from l_net",
            without="split B labels from cam",
            full="all masks",
        ),
    ),
    "transfer.py",
)

GATED_CRF = Paper(
    "gated_crf",
    "Gated CRF",
    "1906.04651",
    "With clicks or scribbles, the loss makes plain cross-entropy on the labelled pixels much better, without any "
    "other trick.",
    "not in the abstract; tables could not be read",
    (Rule(BEATS, "without"),),
    (
        Case(
            "Hearts (ACDC), scribbles of people",
            ours="acdc_scribble gated CRF",
            without="acdc_scribble partial cross-entropy",
            full="acdc_scribble all masks",
        ),
        Case(
            "Streets (CamVid), scribbles drawn from 367 masks, `balance_classes=1`",
            ours="camvid gated CRF",
            without="camvid partial cross-entropy",
        ),
        Case(
            f"{ANIMALS}, clicks of people",
            ours="voc_animals gated CRF",
            without="voc_animals partial cross-entropy",
            full="voc_animals all masks",
        ),
    ),
    "gated_crf.py",
)


def _boxes(what: str, name: str, rival: bool = True) -> Case:
    return Case(
        what,
        ours=f"{name} masks and boxes",
        without=f"{name} masks alone",
        rival=f"{name} boxes as masks" if rival else "",
        rival_is="boxes as masks" if rival else "",
        full=f"{name} all masks",
    )


LABEL_UNCERTAINTY = Paper(
    "label_uncertainty",
    "Label uncertainty",
    "2110.05926",
    "18 % masks and 82 % boxes reach 0.97 to 0.98 of what masks of all images reach.",
    "0.983 for two classes, 0.971 for vehicles and persons of Cityscapes",
    (
        Rule("At least 0.97 of all masks.", "full", 0.97),
        Rule("Better than the masks alone.", "without"),
        Rule("Better than boxes as masks.", "rival"),
    ),
    (
        _boxes(f"{HORSES}: 36 masks, 164 boxes", "weizmann_horse"),
        _boxes("The same, a held-out quarter of the training images: 27 masks, 123 boxes", "weizmann_horse held out"),
        _boxes("Nuclei (DSB 2018): 96 masks, 435 boxes", "dsb2018_nuclei", rival=False),
        _boxes(f"{ANIMALS}: 169 masks, 768 boxes, 8 + 8 an update", "voc_animals"),
    ),
    "label_uncertainty.py",
)

FEW = "voc_animals 1/8 of the masks"
ADVERSARIAL = Paper(
    "semi_supervised",
    "Adversarial",
    "1802.07934",
    "With masks of an eighth of the images, a discriminator makes the other images worth something.",
    "0.935 with 1/8 of Pascal VOC (0.897 without the method)",
    (Rule(BEATS, "without"),),
    (
        Case(
            f"{ANIMALS}: 117 masks, 820 plain images, 8 + 8 an update; the discriminator sees the map alone",
            ours="voc_animals adversarial, map alone",
            without=FEW,
            full="voc_animals all masks",
        ),
        Case(
            "The same, judging every 8 pixels",
            ours="voc_animals adversarial, map alone, stride 8",
            without=FEW,
            full="voc_animals all masks",
        ),
        Case(
            "The same, the discriminator sees the image too",
            ours="voc_animals adversarial",
            without=FEW,
            full="voc_animals all masks",
            of="ours",
        ),
        Case("`unimatch`", ours="voc_animals unimatch", without=FEW, full="voc_animals all masks", of="others"),
        Case("`mean_teacher`", ours="voc_animals mean_teacher", without=FEW, full="voc_animals all masks", of="others"),
    ),
    "semi_supervised.py",
    page="adversarial",
)

PAPERS = (TOTAL_VARIATION, TRANSFER, GATED_CRF, LABEL_UNCERTAINTY, ADVERSARIAL)
