"""Tables with a row an item, for items that come and go."""

import torch
from torch import Tensor

from slatewise.errors import InputError

LARGEST = 50_000_000  # item ids: each takes 8 bytes of the lookup


class ItemRows:
    """Which row of a table belongs to which item.

    Row 0 is nobody's: it holds what is believed of an item that was never seen, and unknown items are given it.
    ids: int64 [R], the item of every row, −1 where a row is free.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.ids = torch.full((1,), -1, dtype=torch.int64, device=device)
        self._index()

    def of(self, ids: Tensor) -> Tensor:
        """Return the rows of items, any shape; 0 for items without a row."""
        return self._lookup[ids.clamp(max=self._last)]  # −1 is the last place, as the unknown are

    def add(self, ids: Tensor) -> Tensor:
        """Give rows to items [n] that have none; return the rows of all, [n].

        There may be more rows afterwards: `ids` is doubled when it is full. Raises InputError for an id too large.
        """
        rows = self.of(ids)
        if int(rows.min()) > 0:
            return rows
        new = ids[rows == 0].unique()
        if int(new[-1]) > LARGEST:
            raise InputError(
                f"item id {int(new[-1])}: agents with a model an item number them from 0 to {LARGEST:,}; "
                "give items smaller numbers, or use a model shared by all items"
            )
        free = (self.ids[1:] < 0).nonzero().squeeze(1) + 1
        if len(free) < len(new):
            size = max(len(self.ids), len(new) - len(free))
            self.ids = torch.cat([self.ids, self.ids.new_full((size,), -1)])
            free = (self.ids[1:] < 0).nonzero().squeeze(1) + 1
        self.ids[free[: len(new)]] = new
        self._index()
        return self.of(ids)

    def remove(self, ids: Tensor) -> Tensor:
        """Free the rows of items [n]; return them. Raises InputError for an item that has none."""
        rows = self.of(ids)
        if bool((rows == 0).any()):
            unknown = int(ids[rows == 0][0])
            raise InputError(f"item {unknown} was never learned about: there is nothing to forget")
        self.ids[rows] = -1
        self._index()
        return rows

    def load(self, ids: Tensor) -> None:
        """Take back `ids`."""
        self.ids = ids
        self._index()

    def _index(self) -> None:
        used = self.ids >= 0
        self._last = int(self.ids.max()) + 1  # one place more than the largest id: unknown
        self._lookup = torch.zeros(self._last + 1, dtype=torch.int64, device=self.ids.device)
        self._lookup[self.ids[used]] = used.nonzero().squeeze(1)


def grown(table: Tensor, rows: int) -> Tensor:
    """Return a table [R, …] with zeros appended up to a number of rows."""
    missing = rows - len(table)
    return torch.cat([table, table.new_zeros(missing, *table.shape[1:])]) if missing > 0 else table
