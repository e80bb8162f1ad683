"""Where files lie that are too large for the repository."""

import os
from pathlib import Path


def optional_files() -> Path:
    """SEMISEG_FIXTURES, else the folder `shared` beside the repository; tests skip where a file is absent."""
    return Path(os.environ.get("SEMISEG_FIXTURES", Path(__file__).parents[3] / "shared"))
