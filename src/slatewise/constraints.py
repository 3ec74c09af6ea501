"""What every slate must keep to: excluded items, items in fixed slots, at most and at least so many of a category.

`Constraints` says it once, in items and categories; `Constraints.on` turns it into `Limits` for the candidates of a
batch, which the functions of `slates` take; `Filling` tells which candidates may come next in a slate being filled.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from slatewise.batch import Batch, Constant
from slatewise.checks import check_shape
from slatewise.errors import InputError, unknown_name

UNLIMITED = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Limits(Batch):
    """Constraints on the slates of a batch of rows, whose candidates they name by position.

    categories: int64 [B, C].  most: int32 [B, C], how many of a candidate's category a slate may hold; 0 where the
    candidate is excluded.  least: int32 [B, C], how many of its category a slate must hold.
    minima: the same by category.  fixed: int64 [B, K], the candidate that belongs in each slot, −1 for any.
    """

    categories: Tensor
    most: Tensor
    least: Tensor
    minima: Mapping[int, int]
    fixed: Tensor

    def couple(self, slots: int) -> bool:
        """Return whether what may be shown depends on what else is: more than exclusions, in slates so long."""
        capped = (self.most > 0) & (self.most < slots)
        return bool(self.minima) or int(self.fixed.max()) >= 0 or bool(capped.any())

    def met(self, slate: Tensor, mask: Tensor) -> Tensor:
        """Return whether each slate [B, K] keeps to everything, minima and fixed slots included, bool [B].

        mask: [B, C], the candidates there were. A row whose candidates are too few for a minimum does not; nor does a
        repeat, or a hole that somebody could have filled. A fixed item that was no candidate asks for nothing.
        """
        good = ((self.fixed < 0) | (self.fixed == slate)).all(1)
        filling = Filling.of(mask, self, slate.shape[1])
        for slot, item in enumerate(slate.split(1, 1)):
            may = filling.at(slot)
            good &= torch.where(item >= 0, may.gather(1, item.clamp(min=0)), ~may.any(1, keepdim=True)).squeeze(1)
            filling = filling.take(item)
        held = self.categories.gather(1, slate.clamp(min=0)).masked_fill(slate < 0, -1)
        for category, least in self.minima.items():
            good &= (held == category).sum(1) >= least
        return good


@dataclass(frozen=True)
class Constraints:
    """What every slate must keep to.

    categories: the category of every item, a name or a number, item i's in place i (rows of the catalogue); None
    where `on` is given those of the candidates.
    at_most: the largest number of items of a category in a slate, by category, or one number for all.
    at_least: the smallest number, by category.
    fixed: the item (its id, a row of the catalogue) that belongs in a slot, by slot, from 0.
    excluded: ids of items that are never shown.

    Maxima, exclusions and distinct items always hold, if need be with holes. Minima and fixed items hold as far as a
    row has candidates for them: `Limits.met` says where minima did.
    Raises InputError for constraints that no slate could keep to, unknown categories and ids.
    """

    categories: Sequence[Hashable] | Tensor | None = None
    at_most: Mapping[Any, int] | int | None = None
    at_least: Mapping[Any, int] = field(default_factory=dict[Any, int])
    fixed: Mapping[int, int] = field(default_factory=dict[int, int])
    excluded: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("at_most", "at_least", "fixed"):  # nobody changes them later
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        one = self.at_most is not None and not isinstance(self.at_most, Mapping)
        _check_numbers("at_most", {"": self.at_most} if one else cast(Mapping[Any, Any], self.at_most or {}))
        _check_numbers("at_least", self.at_least)
        for category, least in self.at_least.items():
            if least > self._most(category):
                raise InputError(
                    f"at_least[{category!r}]={least} is more than at_most allows, {self._most(category)}: raise at_most"
                )
        self._check_items()
        if self.categories is not None:
            self._check_categories()

    def on(self, item_ids: Tensor, slots: int, categories: Tensor | None = None) -> Limits:
        """Return the limits of slates of so many slots for candidates int64 [B, C]; −1 is not to be shown.

        categories: int64 [B, C] of the candidates, where the constraints have none.
        Raises InputError where slates of this size cannot keep to them, and for ids without a category.
        """
        self._check_size(slots)
        codes = self._categories_of(item_ids, categories)
        return Limits(
            categories=codes,
            most=self._bound(codes, self.at_most, UNLIMITED).masked_fill(self._excluded(item_ids), 0),
            least=self._bound(codes, self.at_least, 0),
            minima={self._code(category): least for category, least in self.at_least.items() if least > 0},
            fixed=self._positions(item_ids, slots),
        )

    @cached_property
    def _known(self) -> tuple[list[Any], Tensor]:
        """Return the distinct categories and each item's place among them, int64 [N]."""
        given = np.asarray(self.categories.cpu() if isinstance(self.categories, Tensor) else self.categories)
        if given.ndim != 1 or given.dtype.kind not in "USiub":
            raise InputError(
                f"categories has shape {given.shape} and type {given.dtype}: give a name or a whole number an item"
            )
        names, codes = np.unique(given, return_inverse=True)
        return names.tolist(), torch.from_numpy(codes.reshape(-1))

    @cached_property
    def _codes(self) -> Constant:
        return Constant(self._known[1])

    def _code(self, category: Any) -> int:
        return int(category) if self.categories is None else self._known[0].index(category)

    def _most(self, category: Any) -> int:
        if isinstance(self.at_most, int):
            return self.at_most
        return (self.at_most or {}).get(category, UNLIMITED)

    def _categories_of(self, item_ids: Tensor, categories: Tensor | None) -> Tensor:
        if categories is not None:
            if self.categories is not None:
                raise InputError("categories are given with the constraints and for the candidates: leave out one")
            check_shape("categories", categories, "BC", torch.int64, *item_ids.shape)
            return categories
        if self.categories is None:
            if self.at_most is not None or self.at_least:
                raise InputError("at_most and at_least need categories: give every item's, or the candidates' to on()")
            return torch.zeros_like(item_ids)
        codes = self._codes.on(item_ids.device)
        if int(item_ids.max()) >= len(codes):
            raise InputError(
                f"candidate {int(item_ids.max())} has no category: categories has {len(codes)} items, give one for "
                "every row of the catalogue"
            )
        return codes[item_ids.clamp(min=0)]

    def _bound(self, codes: Tensor, bounds: Mapping[Any, int] | int | None, otherwise: int) -> Tensor:
        """Return the bound of each candidate's category, int32 [B, C]."""
        every = bounds if isinstance(bounds, int) else otherwise
        found = torch.full_like(codes, every, dtype=torch.int32)
        for category, bound in (bounds if isinstance(bounds, Mapping) else {}).items():
            found.masked_fill_(codes == self._code(category), bound)
        return found

    def _excluded(self, item_ids: Tensor) -> Tensor:
        return torch.isin(item_ids, torch.tensor(self.excluded, dtype=torch.int64, device=item_ids.device))

    def _positions(self, item_ids: Tensor, slots: int) -> Tensor:
        """Return the candidates that are fixed items, in their slots, [B, K]; −1 for any candidate."""
        found = torch.full((len(item_ids), slots), -1, device=item_ids.device)
        for slot, item in self.fixed.items():
            here = item_ids == item
            found[:, slot] = torch.where(here.any(1), here.int().argmax(1), -1)
        return found

    def _check_items(self) -> None:
        """Raise InputError for slots and items that contradict each other."""
        for slot, item in self.fixed.items():
            if slot < 0 or item < 0:
                raise InputError(f"fixed={{{slot}: {item}}}: slots and items are counted from 0")
            if item in self.excluded:
                raise InputError(f"item {item} belongs in slot {slot} and is excluded: leave it out of one of them")
        if len(set(self.fixed.values())) < len(self.fixed):
            raise InputError(f"fixed={dict(self.fixed)} shows an item in two slots: give it one")

    def _check_categories(self) -> None:
        """Raise InputError for categories and items that are not there, and more fixed items than at_most."""
        names, codes = self._known
        limited = self.at_most if isinstance(self.at_most, Mapping) else {}
        for category in (*limited, *self.at_least):
            if category not in names:
                raise unknown_name("category", str(category), [str(name) for name in names])
        for item in self.fixed.values():
            if item >= len(codes):
                raise InputError(f"fixed item {item} has no category: categories has {len(codes)} items")
        for category, count in self._fixed_by_category().items():
            if count > self._most(category):
                raise InputError(
                    f"category {category!r} has {count} of the fixed items, at_most allows {self._most(category)}: "
                    "fix fewer, or raise at_most"
                )

    def _fixed_by_category(self) -> dict[Any, int]:
        if self.categories is None:
            return {}
        names, codes = self._known
        held = [names[int(codes[item])] for item in self.fixed.values()]
        return {category: held.count(category) for category in held}

    def _check_size(self, slots: int) -> None:
        """Raise InputError where fixed items and minima need more slots than there are."""
        for slot in self.fixed:
            if slot >= slots:
                raise InputError(f"fixed has slot {slot}, and slates have {slots} slots (0 to {slots - 1})")
        held = self._fixed_by_category()
        spare = {category: least - held.get(category, 0) for category, least in self.at_least.items()}
        needed = len(self.fixed) * bool(self.categories is not None) + sum(max(0, more) for more in spare.values())
        if needed > slots:
            fixed = f" beside {len(self.fixed)} fixed items" if self.fixed else ""
            raise InputError(
                f"at_least={dict(self.at_least)} needs {needed} slots{fixed}, and slates have {slots}: lower it"
            )


def _check_numbers(name: str, bounds: Mapping[Any, Any]) -> None:
    for category, number in bounds.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            where = f"{name}[{category!r}]" if category != "" else name
            raise InputError(f"{where}={number!r}: give a whole number of items, 0 or more")


@dataclass(frozen=True, eq=False)
class Filling(Batch):
    """Slates being filled, one item after the other, in a batch of rows.

    With `least` and `most` of every category and K slots, sets of items that some full slate contains are the
    independent sets of a matroid: S is one where no category g holds more than most(g), and
    Σ max(items of g in S, least(g)) ≤ K (El Halabi et al. 2020, arXiv 2010.07431, "extendable" sets). So taking the
    best of what is `open`, again and again, gives the slate of largest sum (Rado 1957; Edmonds 1971), and whatever
    is taken, the slate can still be completed.

    left: bool [B, C], not yet taken.  held: int32 [B, C], how many of a candidate's category were taken.
    spare: int64 [B, 1], slots that no minimum needs.
    """

    left: Tensor
    limits: Limits | None
    held: Tensor
    spare: Tensor

    @staticmethod
    def of(mask: Tensor, limits: Limits | None, slots: int) -> "Filling":
        """Return empty slates but for items in fixed slots. mask: bool [B, C], candidates that may be shown."""
        if limits is None:
            nothing = torch.zeros(len(mask), 0, device=mask.device)
            return Filling(mask, None, nothing, nothing)
        check_shape("limits.fixed", limits.fixed, "BK", torch.int64, len(mask), slots)
        allowed, reserved = mask & (limits.most > 0), torch.zeros(len(mask), 1, dtype=torch.int64, device=mask.device)
        for category, least in limits.minima.items():
            reserved += (allowed & (limits.categories == category)).sum(1, keepdim=True).clamp(max=least)
        there = (limits.fixed >= 0) & mask.gather(1, limits.fixed.clamp(min=0))
        limits = replace(limits, fixed=limits.fixed.masked_fill(~there, -1))
        filling = Filling(mask, limits, torch.zeros_like(limits.most), slots - reserved)
        for slot in range(slots):
            if bool(there[:, slot].any()):
                filling = filling.take(limits.fixed[:, slot : slot + 1])
        return filling

    def open(self) -> Tensor:
        """Return the candidates after which a slate can still be completed, bool [B, C]."""
        if self.limits is None:
            return self.left
        may = self.left & (self.held < self.limits.most)
        return may & ((self.held < self.limits.least) | (self.spare > 0)) if self.limits.minima else may

    def at(self, slot: int) -> Tensor:
        """Return the candidates that may come in a slot, bool [B, C]: its own item alone where it has one."""
        may = self.open()
        own = self.limits.fixed[:, slot : slot + 1] if self.limits is not None else None
        if own is None or int(own.max()) < 0:
            return may
        return torch.where(own >= 0, torch.zeros_like(may).scatter(1, own.clamp(min=0), True), may)

    def take(self, item: Tensor) -> "Filling":
        """Take a candidate [B, 1] in every row, −1 for none; one taken before, as fixed ones are, counts once."""
        at = item.clamp(min=0)
        new = (item >= 0) & self.left.gather(1, at)
        left = self.left.scatter(1, at, self.left.gather(1, at) & ~new)
        if self.limits is None:
            return replace(self, left=left)
        same = (self.limits.categories == self.limits.categories.gather(1, at)) & new
        owed = self.held.gather(1, at) < self.limits.least.gather(1, at)
        return replace(self, left=left, held=self.held + same, spare=self.spare - (new & ~owed).long())

    def fixed(self) -> Tensor:
        """Return the candidates that are in slots of their own, bool [B, C]."""
        if self.limits is None:
            return torch.zeros_like(self.left)
        own = self.limits.fixed
        return (
            torch.zeros_like(self.left, dtype=torch.uint8).scatter_add(1, own.clamp(min=0), (own >= 0).to(torch.uint8))
            > 0
        )
