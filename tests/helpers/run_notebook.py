"""Runs the code cells of a notebook in order as plain Python and reports the figures that they leave.

    python run_notebook.py NOTEBOOK

The last line of the output is a JSON list with one entry a figure: its cell, and the titles of axes that show nothing.
A cell that raises ends the run; the last line of the errors names it.
"""

import json
import linecache
import sys
import traceback
from pathlib import Path


def main(path: Path) -> None:
    import matplotlib.pyplot as plt

    # Whether something was drawn can be seen at any size; small figures draw fast.
    plt.rcParams["figure.dpi"] = 40
    namespace = {"__name__": "__main__"}
    figures = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        name = f"{path.name}, cell {number} ({source.strip().splitlines()[0] if source.strip() else 'empty'})"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        try:
            exec(compile(source, name, "exec"), namespace)
        except BaseException as error:
            traceback.print_exc()
            sys.exit(f"failed: {name}: {type(error).__name__}: {error}")
        for figure in map(plt.figure, plt.get_fignums()):
            figure.canvas.draw()
            blank = [axes.get_title() for axes in figure.axes if shows_nothing(axes)]
            figures.append({"cell": name, "axes": len(figure.axes), "blank": blank})
        plt.close("all")
    print(json.dumps(figures))


def shows_nothing(axes) -> bool:
    """True for axes without content, and for a picture that is the same everywhere."""
    flat = [image.get_array().compressed() for image in axes.get_images()]
    return not axes.has_data() or any(values.size == 0 or values.min() == values.max() for values in flat)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
