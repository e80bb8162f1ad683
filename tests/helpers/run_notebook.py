"""Runs the code cells of a notebook in order as plain Python and reports the figures that they leave.

    python run_notebook.py NOTEBOOK NAME=VALUE...

Values take the place of those that the cell tagged `parameters` gives these names. The last line of the output is a
JSON list with one entry a figure: its cell, and the titles of axes that show nothing. A cell that raises ends the run;
the last line of the errors names it.
"""

import ast
import json
import linecache
import sys
import traceback
from pathlib import Path
from types import ModuleType


def main(path: Path, values: dict) -> None:
    import matplotlib.pyplot as plt

    # Whether something was drawn can be seen at any size; small figures draw fast.
    plt.rcParams["figure.dpi"] = 40
    sys.modules["__main__"] = module = ModuleType("__main__")  # classes of cells are found there, as under Jupyter
    namespace = vars(module)
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
        if "parameters" in cell.get("metadata", {}).get("tags", ()):
            if unknown := values.keys() - namespace.keys():
                sys.exit(f"failed: {path.name} has no parameter {', '.join(sorted(unknown))}")
            namespace.update(values)
            values = {}
        for figure in map(plt.figure, plt.get_fignums()):
            figure.canvas.draw()
            blank = [axes.get_title() for axes in figure.axes if shows_nothing(axes)]
            figures.append({"cell": name, "axes": len(figure.axes), "blank": blank})
        plt.close("all")
    if values:
        sys.exit(f"failed: {path.name} has no cell tagged parameters")
    print(json.dumps(figures))


def shows_nothing(axes) -> bool:
    """True for axes without content, and for a picture that is the same everywhere."""
    flat = [image.get_array().compressed() for image in axes.get_images()]
    return not axes.has_data() or any(values.size == 0 or values.min() == values.max() for values in flat)


if __name__ == "__main__":
    pairs = (given.partition("=") for given in sys.argv[2:])
    main(Path(sys.argv[1]), {name: ast.literal_eval(value) for name, _, value in pairs})
