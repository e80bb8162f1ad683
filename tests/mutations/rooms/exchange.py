"""Faults of what comes and goes: label files, drawn labels, exported models, the report."""

from mutation import Mutation

MUTATIONS = (
    Mutation(
        "exchange-brush-width",
        "a run of painted pixels is one too short",
        "exchange/brush_rle.py",
        (("end = at + 1 + bits.take(", "end = at + bits.take("),),
        first=("label_studio",),
    ),
    Mutation(
        "exchange-brush-soft",
        "every pixel that a brush touches counts",
        "exchange/brush_rle.py",
        (("(alpha > alpha.max() // 2)", "(alpha > 0)"),),
        first=("label_studio",),
    ),
    Mutation(
        "exchange-background",
        "outlines of all classes but the background are left out",
        "exchange/outlines.py",
        (("if klass != background:", "if klass == background:"),),
        first=("outlines",),
    ),
    Mutation(
        "exchange-box-axes",
        "x and y of drawn boxes are swapped in the file",
        "notebook/label_folder.py",
        (('"bbox": [x0, y0, x1 - x0, y1 - y0]', '"bbox": [y0, x0, y1 - y0, x1 - x0]'),),
        first=("label_folder",),
    ),
    Mutation(
        "exchange-crowd",
        "boxes of crowds are lost when others are drawn",
        "notebook/label_folder.py",
        ((' or row.get("iscrowd")]', "]"),),
        first=("label_folder",),
    ),
    Mutation(
        "exchange-far-edge",
        "a click on the last pixel lies beside the image",
        "notebook/label_folder.py",
        (("np.subtract(size, 0.01)", "np.add(size, 0.01)"),),
        first=("label_folder",),
    ),
    Mutation(
        "exchange-half-even",
        "an export rounds halves up where prediction takes the even size",
        "exports/program.py",
        (("return up - at_half * (up % 2)", "return up"),),
        first=("test_program",),
    ),
    Mutation(
        "exchange-flip-back",
        "an export averages with the mirrored maps of the mirrored image",
        "exports/program.py",
        (("forward(weights, tiles[:, :, ::-1])[:, :, ::-1])", "forward(weights, tiles[:, :, ::-1]))"),),
        first=("test_program",),
    ),
    Mutation(
        "exchange-enlarged",
        "an export enlarges its maps by sides of the wrong axis",
        "exports/program.py",
        (("new[axis - 1], old[axis - 1], size", "new[axis - 2], old[axis - 2], size"),),
        first=("test_program",),
    ),
    Mutation(
        "exchange-spread",
        "the spread over seeds in the report is too small",
        "report/page.py",
        (("ddof=1", "ddof=0"),),
        first=("test_page",),
    ),
)
