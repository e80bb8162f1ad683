"""Which mask belongs to which image, by their names: X_mask.png to X.jpg, or whatever else the masks have in common."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from semiseg_jax.exchange.drawings import LabelFileError

_SAMPLE = 50  # masks that naming schemes are guessed from
_TRIED = 20  # schemes
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Naming:
    """What stands before and after the name of the image in that of its mask."""

    before: str = ""
    after: str = ""

    def image_of(self, stem: str) -> str | None:
        """The stem of the image of a mask; None where its name has another form."""
        core = stem[len(self.before) : len(stem) - len(self.after)]
        return core if core and f"{self.before}{core}{self.after}" == stem else None

    def __str__(self) -> str:
        return f"{self.before}*{self.after}"


def parse(pattern: str) -> Naming:
    """A naming from a pattern such as *_mask, where * stands for the name of the image."""
    before, star, after = pattern.removesuffix(".png").partition("*")
    if not star or "*" in after or "/" in pattern:
        raise LabelFileError(f"--names={pattern}: must have one *, which stands for the name of the image: *_mask")
    return Naming(before, after)


def by_stem(images: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in images:
        found.setdefault(path.stem, []).append(path)
    return found


def guess(masks: Sequence[Path], images: Mapping[str, Sequence[Path]]) -> Naming:
    """The naming that fits most masks; of several, that with the longest names of images."""
    votes: Counter[Naming] = Counter()
    for mask in masks[:: max(1, len(masks) // _SAMPLE)]:
        stem = mask.stem
        for start in range(len(stem)):
            for end in range(start + 1, len(stem) + 1):
                if _others(images.get(stem[start:end], ()), mask):
                    votes[Naming(stem[:start], stem[end:])] += 1
    if not votes:
        names = ", ".join(sorted(images)[:3])
        raise LabelFileError(
            f"no mask has the name of an image in its own: masks are {masks[0].name} and the like, images {names}"
        )

    def fit(naming: Naming) -> tuple[int, int]:
        fitting = sum(bool(_others(images.get(naming.image_of(mask.stem) or "", ()), mask)) for mask in masks)
        return fitting, -len(naming.before) - len(naming.after)

    return max((naming for naming, _ in votes.most_common(_TRIED)), key=fit)


def pair(
    masks: Sequence[Path], images: Mapping[str, Sequence[Path]], naming: Naming, folders: tuple[Path, Path]
) -> tuple[dict[Path, Path], list[Path]]:
    """{mask: image} and the masks without one. `folders` hold the masks and the images.

    Of several images of one name, that whose folders are most like those of the mask is taken.
    """
    pairs: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    rest = []
    for mask in masks:
        candidates = _others(images.get(naming.image_of(mask.stem) or "", ()), mask)
        ranks = [_alike(mask.relative_to(folders[0]).parts, path.relative_to(folders[1]).parts) for path in candidates]
        best = [path for path, rank in zip(candidates, ranks, strict=True) if rank == max(ranks)]
        if not best:
            rest.append(mask)
            continue
        if len(best) > 1:
            raise LabelFileError(f"{mask}: may belong to {best[0]} or {best[1]}; rename one of them")
        if best[0] in taken:
            raise LabelFileError(f"{taken[best[0]]} and {mask} are both masks of {best[0]}")
        pairs[mask], taken[best[0]] = best[0], mask
    return pairs, rest


def refuse_rest(rest: Sequence[Path], naming: Naming, source: Path) -> None:
    """Masks that have no image are refused, unless a pattern was given."""
    shown = ", ".join(str(path.relative_to(source)) for path in rest[:_SHOWN])
    raise LabelFileError(
        f"{source}: {len(rest)} files belong to no image if masks are named {naming}: {shown}; move them away, or say "
        f"which masks are meant with --names='{naming}'"
    )


def _others(images: Sequence[Path], mask: Path) -> list[Path]:
    return [path for path in images if path != mask]


def _alike(mask: Sequence[str], image: Sequence[str]) -> tuple[int, int]:
    """How many of the innermost folders are the same, and how few of the others there are."""
    count = 0
    for one, other in zip(reversed(mask[:-1]), reversed(image[:-1]), strict=False):
        if one != other:
            break
        count += 1
    return count, -len(image)
