"""What a reader leaves out, counted in words: what has no place in a dataset folder, and labels that are no classes."""

from collections import Counter
from collections.abc import Collection


class LeftOut:
    """Counts of what is left out.

    Args:
      drop: labels that are remarks and no classes; whatever has them is left out, too.
    """

    def __init__(self, drop: Collection[str] = ()):
        self.drop = frozenset(drop)
        self.dropped: set[str] = set()  # those of `drop` that the files name
        self._counts: Counter[str] = Counter()

    def count(self, what: str, number: int = 1) -> None:
        self._counts[what] += number

    def drops(self, label: str | None, things: str = "") -> bool:
        """Whether this label is to be dropped; `things` are what has it, to be counted."""
        if label is None or label not in self.drop:
            return False
        self.dropped.add(label)
        if things:
            self.count(f"{things} of {label!r}, dropped as asked")
        return True

    def words(self) -> list[str]:
        """Lines of a report."""
        return [f"{count} {what}" for what, count in sorted(self._counts.items()) if count]
