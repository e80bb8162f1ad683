"""Images of a .zip that a tool exported: unpacked to a folder, and nothing outside of it."""

import re
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from semiseg_jax.data.records import IMAGE_SUFFIXES
from semiseg_jax.exchange.drawings import LabelFileError

_MAX_RATIO = 100  # images hardly shrink; a file that grows more than this is made to fill disks
_SMALL = 2**26


def checked_names(archive: zipfile.ZipFile, source: Path) -> list[zipfile.ZipInfo]:
    """The files of an archive. Names that lead out of a folder are refused."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in infos:
        parts = re.split(r"[/\\]", info.filename)
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise LabelFileError(f"{source}: holds a file named {info.filename[:200]!r}, which leads out of the folder")
    return infos


def unpack_images(source: Path, folder: Path) -> Path:
    """Unpacks the images of an archive; returns the folder in which they are, without a folder that holds all."""
    try:
        with zipfile.ZipFile(source) as archive:
            infos = [info for info in checked_names(archive, source) if _is_image(info.filename)]
            total = sum(info.file_size for info in infos)
            if total > max(_SMALL, _MAX_RATIO * source.stat().st_size):
                raise LabelFileError(f"{source}: its images unpack to {total:,} bytes, too many for such a file")
            for info in infos:
                target = folder.joinpath(*re.split(r"[/\\]", info.filename))
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as packed, target.open("xb") as file:
                    shutil.copyfileobj(packed, file)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise error if isinstance(error, LabelFileError) else LabelFileError(f"{source}: {error}") from None
    if not infos:
        raise LabelFileError(f"{source}: holds no image; name the folder of images with --images")
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden
