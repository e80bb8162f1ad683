"""What `mkdocs build` does beyond its plugins: pages outside docs/ and formulas without scripts.

Documents that stand elsewhere (`OUTSIDE`) are pages of the site under the path that they have in the repository. Links
are written as they are right in the repository. Here they are turned to the pages of the site, and those to other
files, such as programs, become plain text. Formulas, ```math blocks and those of docstrings, become MathML, which
browsers draw by themselves.
"""

import posixpath
import re
import textwrap
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "configs/README.md",
    "experiments/results/*.md",
    "experiments/results/*.svg",
)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    fence = {"name": "math", "class": "math", "format": _formula}
    config.markdown_extensions.append("pymdownx.superfences")
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: _turned(link, page.file.src_uri, files), part) for part in parts[::2]]
    return "".join(parts)


def _turned(link: re.Match, source: str, files: Files) -> str:
    mark, text, target, anchor = link.groups()
    in_docs = files.get_file_from_path(source).generated_by is None
    here = posixpath.dirname(f"docs/{source}" if in_docs else source)
    path = posixpath.normpath(posixpath.join(here, target))
    page = path.removeprefix("docs/") if path.startswith("docs/") else path
    if files.get_file_from_path(page) is None:
        return text if (ROOT / path).exists() and not mark else link[0]  # what is nowhere is left, to be an error
    return f"{mark}[{text}]({posixpath.relpath(page, posixpath.dirname(source))}{anchor or ''})"


def _formula(source: str, *args: object, **options: object) -> str:
    return f'<div class="math">{convert(source, display="block")}</div>'


class Formulas(griffe.Extension):
    """Formulas of docstrings, which are written as Sphinx has them, for Markdown."""

    def on_function(self, *, func: griffe.Function, **options: object) -> None:
        if func.docstring:
            func.docstring.value = _markdown(func.docstring.value)

    def on_class(self, *, cls: griffe.Class, **options: object) -> None:
        if cls.docstring:
            cls.docstring.value = _markdown(cls.docstring.value)


def _markdown(text: str) -> str:
    block = re.compile(r"^( *)\.\. math::\n((?:\1  .*\n|\n)+)", re.MULTILINE)
    text = block.sub(lambda found: f"{found[1]}{_one_line(found[2])}\n\n", text)
    return re.sub(r":math:`([^`]+)`", lambda found: convert(found[1]), text)


def _one_line(formula: str) -> str:
    return _formula(textwrap.dedent(formula).strip())
