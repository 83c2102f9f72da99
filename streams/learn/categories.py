"""Categories: the finest one of each item, as a number that item signals can hold."""

from collections.abc import Sequence

MAX_CATEGORIES = 100_000  # more are a mistake of whoever publishes the catalogue
MAX_ITEMS = 2_000_000  # whose category is kept before they are admitted


class Categories:
    """Numbers the categories in the order they come; for good, because item signals hold them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._of_item: dict[str, int] = {}

    def note(self, item: str, categories: Sequence[str]) -> None:
        """Keep the last, finest of an item's categories, if it has any and its number has room."""
        if not categories:
            return
        finest, numbers = categories[-1], self._numbers
        if finest in numbers or len(numbers) < MAX_CATEGORIES:
            self.forget(item)  # to be the newest
            self._of_item[item] = numbers.setdefault(finest, len(numbers))
            if len(self._of_item) > MAX_ITEMS:
                del self._of_item[next(iter(self._of_item))]

    def forget(self, item: str) -> None:
        """Let go of an item's category; one that it was placed in stays with its signals."""
        self._of_item.pop(item, None)

    def of(self, item: str) -> int | None:
        """Return the number of the item's category."""
        return self._of_item.get(item)

    def names(self) -> list[str]:
        """Return the categories by number."""
        return list(self._numbers)

    def restore(self, names: Sequence[str]) -> None:
        """Give the categories their numbers back."""
        self._numbers = {name: number for number, name in enumerate(names)}
