"""`masks`: a folder of masks under other names, whose values are class indices or whose colours a table explains.

    read(DATA/labels, DATA/images)                               labels/X_mask.png to images/X.jpg, for example
    read(DATA/labels, DATA/images, colors=DATA/label_colors.txt) masks in colours

How the masks are named is found out; a pattern, such as *_mask, says it. Indices are 0 to K - 1 and 255 where nothing
is said. Masks of two classes may have 0 and 255 instead of 0 and 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from semiseg_jax.data.label_maps import Color, moved_colors, own_colors, palette_of
from semiseg_jax.data.run_lengths import MOST_PIXELS
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import IGNORE
from semiseg_jax.exchange import mask_names, parsing
from semiseg_jax.exchange.color_table import ColorTable, codes_of, color_of, read_table
from semiseg_jax.exchange.drawings import Area, Drawing, Drawings, LabelFileError, Size
from semiseg_jax.exchange.folder import BACKGROUND, image_files
from semiseg_jax.exchange.left_out import LeftOut

SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")  # that keep values as they are
_SHOWN = 5
_COLORS_HELP = "--colors=FILE says what the colours stand for"


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What one mask holds."""

    path: Path
    size: Size
    values: frozenset[int]  # indices, or codes of colours
    palette: dict[int, Color]  # colour by index, of palette files
    own: dict[int, Color]  # those of them that no other index has


def read(
    source: Path,
    images: Path,
    *,
    colors: Path | None = None,
    names: str = "",
    classes: Sequence[str] = (),
    drop: Collection[str] = (),
) -> Drawings:
    """The masks of a folder and those below.

    Args:
      source: the folder of the masks.
      images: the folder of the images; it may be the same.
      colors: a table of the colours.
      names: how masks are named after their images, such as *_mask; by default this is found out.
      classes: names of the indices in order; by default background, class 1, class 2 and so on.
      drop: classes whose pixels are to be ignored.
    """
    if not source.is_dir():
        raise LabelFileError(f"{source}: must be the folder of the masks")
    if source.resolve() == images.resolve():
        source = images
    table = read_table(colors) if colors else None
    pairs, label_files, notes, left_out = _pairs(source, images, names)
    seen = _look_at_all(list(pairs), table)
    if table is not None:
        classes, indices = table.classes, None
        shown = {path: set(table.classes_of(np.array(sorted(look.values))).tolist()) for path, look in seen.items()}
    else:
        _check_palettes(seen.values())
        indices, classes, note = _meaning(list(seen.values()), classes)
        notes += note
        shown = {path: {int(indices[value]) for value in look.values} for path, look in seen.items()}
    decoded = functools.partial(_decoded, table=table, indices=indices)
    classes_in = functools.lru_cache(maxsize=8)(decoded)  # of an image one after the other
    drawings, without = [], LeftOut(drop)
    for path, image in pairs.items():
        labels = {index: None if index == IGNORE else classes[index] for index in sorted(shown[path])}
        areas = [
            Area(label, mask=functools.partial(_is, classes_in, path, index))
            for index, label in labels.items()
            if not without.drops(label, "areas")
        ]
        drawings.append(Drawing(image.relative_to(images).as_posix(), str(path), seen[path].size, areas))
    kept = [name for name in classes if not without.drops(name)]
    left_out += without.words()
    return Drawings(drawings, kept, left_out, notes=notes, label_files=label_files, dropped=without.dropped)


def _pairs(source: Path, images: Path, names: str) -> tuple[dict[Path, Path], list[Path], list[str], list[str]]:
    """{mask: image}, the files that are no images, notes, and what is left out."""
    same = source == images
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not parsing.hidden(path, source)]
    if not same and images.resolve().is_relative_to(source.resolve()):
        files = [path for path in files if not path.resolve().is_relative_to(images.resolve())]
    masks = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not masks:
        blurred = any(path.suffix.lower() in (".jpg", ".jpeg") for path in files)
        why = "; JPEG changes the values of masks: export them as PNG" if blurred else ""
        raise LabelFileError(f"{source}: holds no mask ({', '.join(SUFFIXES)}){why}")
    below = {path.resolve() for path in files} if not same else set()
    by_stem = mask_names.by_stem([path for path in image_files(images) if path.resolve() not in below])
    naming = mask_names.parse(names) if names else mask_names.guess(masks, by_stem)
    pairs, rest = mask_names.pair(masks, by_stem, naming, (source, images))
    if not pairs:
        raise LabelFileError(f"{source}: no mask belongs to an image if masks are named {naming}")
    if same:
        rest = [path for path in rest if path not in pairs.values()]
    if rest and not names:
        mask_names.refuse_rest(rest, naming, source)
    left_out = [f"{len(rest)} files of {source} that are not named {naming}"] if rest and not same else []
    others = len(files) - len(masks)
    if others and not same:
        left_out.append(f"{others} files of {source} that are no masks")
    notes = [f"masks are named {naming} after their images"] if (naming.before or naming.after) else []
    return pairs, list(pairs) if same else _spelled_below(files, source, images), notes, left_out


def _spelled_below(files: Sequence[Path], source: Path, images: Path) -> list[Path]:
    """Files of a folder within that of the images, as they are found from there."""
    if not source.resolve().is_relative_to(images.resolve()):
        return []
    inner = source.resolve().relative_to(images.resolve())
    return [images / inner / path.relative_to(source) for path in files]


def _look_at_all(paths: Sequence[Path], table: ColorTable | None) -> dict[Path, _Seen]:
    def look(path: Path) -> _Seen | str:
        try:
            return _look(path, table)
        except LabelFileError as error:
            return str(error)

    results = list(in_order(look, paths))
    parsing.refuse_all([result for result in results if isinstance(result, str)])
    return {result.path: result for result in results if not isinstance(result, str)}


def _look(path: Path, table: ColorTable | None) -> _Seen:
    values, palette = _values(path, colored=table is not None)
    found, counts = _counted(values)
    if table is not None:
        strange = ~table.known(found)
        if strange.any():
            order = np.argsort(-counts[strange])
            codes, numbers = found[strange][order], counts[strange][order]
            lines = [
                f"{number} pixels are {color_of(code)}, nearest to {table.nearest(color_of(code))}"
                for code, number in zip(codes[:_SHOWN].tolist(), numbers.tolist(), strict=False)
            ]
            more = f"; and {len(codes) - _SHOWN} more colours" if len(codes) > _SHOWN else ""
            raise LabelFileError(f"{path}: has colours that are not in {table.path}: {'; '.join(lines)}{more}")
    elif found[0] < 0 or found[-1] > IGNORE:
        raise LabelFileError(
            f"{path}: has the value {found[found > IGNORE][:1]}, but class indices are 0 to 253 and 255"
        )
    held = frozenset(found.tolist())
    known = {index: color for index, color in palette.items() if index in held}
    return _Seen(path, values.shape, held, known, own_colors(palette, held))


def _counted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values, sorted, and how often each occurs; fast where neighbours are mostly the same."""
    flat = values.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1))
    found, which = np.unique(flat[starts], return_inverse=True)
    return found, np.bincount(which, np.diff(starts, append=len(flat))).astype(int)


def _values(path: Path, colored: bool) -> tuple[np.ndarray, dict[int, Color]]:
    """[H,W] class indices, or codes of colours; and the palette of a file of indices that has one."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS or getattr(image, "n_frames", 1) > 1:
                raise LabelFileError(f"{path}: has over {MOST_PIXELS:,} pixels or more than one picture")
            mode, palette = image.mode, palette_of(image)
            alpha = np.asarray(image.getchannel("A")) if mode in ("RGBA", "LA", "PA") else None
            as_colors = (colored and not mode.startswith(("I", "F"))) or mode in ("PA", "LA")
            array = np.asarray(image.convert("RGB") if as_colors else image)
    except LabelFileError:
        raise
    except Exception:
        raise LabelFileError(f"{path}: is not a readable picture") from None
    if alpha is not None and (alpha < 255).any():
        raise LabelFileError(f"{path}: is transparent in {(alpha < 255).sum()} pixels; a mask must say all of them")
    if colored:
        if array.ndim != 3:
            raise LabelFileError(f"{path}: has {array.dtype} values, no colours")
        return codes_of(array), {}
    if array.ndim == 3:
        if (array[..., :1] != array[..., :3]).any():
            codes, counts = _counted(codes_of(array))
            shown = ", ".join(str(color_of(code)) for code in codes[np.argsort(-counts)][:_SHOWN].tolist())
            raise LabelFileError(f"{path}: is in colours, such as {shown}; --colors=FILE says what they stand for")
        array = array[..., 0]
    if array.dtype.kind == "f":
        raise LabelFileError(f"{path}: has numbers with fractions, no class indices")
    return array.astype(np.int32), palette


def _check_palettes(seen: Collection[_Seen]) -> None:
    """Files of indices whose colours disagree have an order of their own: the same index is another class."""
    if moved := moved_colors(((look.path, look.own) for look in seen), _COLORS_HELP):
        raise LabelFileError(moved)
    first: dict[int, tuple[Color, Path]] = {}
    for look in seen:
        for index, color in look.palette.items():
            known, path = first.setdefault(index, (color, look.path))
            if known != color:
                raise LabelFileError(
                    f"the index {index} is the colour {known} in {path} but {color} in {look.path}: their palettes are "
                    f"in another order; {_COLORS_HELP}"
                )


def _meaning(seen: Sequence[_Seen], classes: Sequence[str]) -> tuple[np.ndarray, Sequence[str], list[str]]:
    """[256] the class of each value, the names of all classes, and what there is to say of it."""
    table = np.full(256, IGNORE, np.uint8)
    values = set().union(*(look.values for look in seen))
    white = [look for look in seen if look.values == {0, IGNORE}]
    if IGNORE in values and values <= {0, IGNORE} and len(classes) in (0, 2):
        table[0], table[IGNORE] = 0, 1
        names = classes or (BACKGROUND, "foreground")
        return table, names, [f"masks hold 0 and 255: 255 is read as 1, {names[1]}"]
    if white and len(classes) in (0, 2) and 1 in values and not any({1, IGNORE} <= look.values for look in seen):
        one = next(look for look in seen if 1 in look.values)
        raise LabelFileError(
            f"{white[0].path} holds 0 and 255, {one.path} 0 and 1, and none has all three: if 255 means 1, write 1 "
            "instead; if it means pixels to ignore, take the masks that have nothing else away"
        )
    indices = sorted(values - {IGNORE})
    count = len(classes) or len(indices)
    strange = [look for look in seen if max(look.values - {IGNORE}, default=0) >= count]
    if strange:
        found = sorted(strange[0].values)
        need = f"the classes are 0 to {count - 1}" if classes else "values must be 0, 1, 2 and so on without gaps"
        raise LabelFileError(
            f"{strange[0].path}: holds {str(found[:8])[1:-1]}{' ...' if len(found) > 8 else ''}, but {need}; --classes "
            "names all classes, and --colors=FILE explains grey values like colours"
        )
    table[:count] = np.arange(count)
    names = classes or [BACKGROUND, *(f"class {index}" for index in range(1, max(count, 2)))]
    said = (
        []
        if classes
        else [f"classes are named after their values; --classes=A,B,... names them: {len(names)} are there"]
    )
    return table, names, said


def _is(classes_in: Callable[[Path], np.ndarray], path: Path, index: int, size: Size) -> np.ndarray:
    """[H,W] bool: the pixels of a class."""
    return classes_in(path) == index


def _decoded(path: Path, table: ColorTable | None, indices: np.ndarray | None) -> np.ndarray:
    """[H,W] uint8 the class of each pixel."""
    values, _ = _values(path, colored=table is not None)
    if table is not None:
        return table.classes_of(values)
    if indices is None or (values < 0).any() or (values > IGNORE).any():
        raise LabelFileError(f"{path}: was changed while it was read")
    return indices[values]
