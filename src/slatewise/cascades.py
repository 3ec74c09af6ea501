"""The best slate of users who go down it and take the first item that pleases, exact and greedy."""

import torch
from torch import Tensor

from slatewise.constraints import Filling


def best_cascade(click: Tensor, values: Tensor, no_click_value: Tensor, may: Tensor, k: int) -> Tensor:
    """Return the slate [B, K] of highest expected value among users who go down it, by dynamic programming.

    click: P(click if reached), [B, C].  values: [B, C].  no_click_value: [B].  may: bool [B, C], what may be shown.
    Items go by falling value, the best order of any set; equals by attraction. best(m, i), the worth of the best m
    items from the i-th on, is the largest over j ≥ i of click(j) value(j) + (1 − click(j)) best(m − 1, j + 1): a
    running maximum from the end. best(0, i) is no click.
    """
    candidates, count = may.shape[1], may.sum(1, keepdim=True)
    order = _by_value(click, values.double().masked_fill(~may, -torch.inf))
    p, v = click.double().gather(1, order), values.double().gather(1, order)
    place = torch.arange(candidates, device=order.device)
    ahead, first = no_click_value.double().unsqueeze(1).expand_as(v), list[Tensor]()
    for slots in range(1, min(k, candidates) + 1):
        worth = torch.lerp(ahead, v, p).masked_fill(place > count - slots, -torch.inf)
        best, where = worth.flip(1).cummax(1)
        first.append(candidates - 1 - where.flip(1))
        ahead = torch.nn.functional.pad(best.flip(1)[:, 1:], (0, 1))
    slate = _follow(torch.stack(first, 1), order, count)
    return torch.nn.functional.pad(slate, (0, k - slate.shape[1]), value=-1)


def _by_value(click: Tensor, values: Tensor) -> Tensor:
    """Return the candidates in order of falling value, int64 [B, C], among equals the most attractive first."""
    attractive = click.argsort(dim=1, descending=True, stable=True)
    falling = values.gather(1, attractive).argsort(dim=1, descending=True, stable=True)
    return attractive.gather(1, falling)


def _follow(first: Tensor, order: Tensor, count: Tensor) -> Tensor:
    """Return the slates [B, m] that a table leads to: first[:, m − 1, i], the first of the best m from place i on."""
    most, candidates = first.shape[1:]
    slots, place = list[Tensor](), torch.zeros_like(count)
    for slot in range(most):
        more = count.clamp(max=most) - slot  # items still to come
        at = first.flatten(1).gather(1, (more - 1).clamp(min=0) * candidates + place.clamp(max=candidates - 1))
        slots.append(torch.where(more > 0, order.gather(1, at), -1))
        place = at + 1
    return torch.cat(slots, 1)


def greedy_cascade(click: Tensor, values: Tensor, no_click_value: Tensor, filling: Filling, k: int) -> Tensor:
    """Fill slates [B, K] by the item and the place of largest gain, again and again.

    Arguments as in `best_cascade`. Fixed items are in their slots from the start; the others stand between them.
    """
    items = torch.full_like(values[:, :1], -1, dtype=torch.int64).expand(-1, k)  # those without a slot of their own
    own = items if filling.limits is None else filling.limits.fixed
    room = (own < 0).sum(1, keepdim=True)
    for filled in range(k):
        may = filling.open() & (filled < room)
        item, place = _largest_gain(
            click, values, _worth_of_places(click, values, no_click_value, items, own, filled), may
        )
        items, filling = _insert(items, item, place), filling.take(item)
    return _in_slots(items, own)


def _worth_of_places(
    click: Tensor, values: Tensor, no_click_value: Tensor, items: Tensor, own: Tensor, filled: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for every place among so many items, what an item there gains by: three numbers each, [B, places].

    How likely it is reached, what the slate is worth from there on now, and what it is worth behind there when the
    items from there on have moved to the next slots.
    """

    def along(items: Tensor) -> tuple[Tensor, Tensor]:
        slate = _in_slots(items, own)
        at = slate.clamp(min=0)
        return _along_cascade(click.gather(1, at) * (slate >= 0), values.gather(1, at), no_click_value)

    slot = (own >= 0).int().argsort(dim=1, stable=True)[:, : filled + 1]  # free ones first
    reach, now = along(items)
    moved = along(torch.nn.functional.pad(items[:, :-1], (1, 0), value=-1))[1]
    return reach.gather(1, slot), now.gather(1, slot), moved.gather(1, slot + 1)


def _largest_gain(
    click: Tensor, values: Tensor, places: tuple[Tensor, Tensor, Tensor], may: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the item that a slate gains most by, −1 where none may come, and its place, [B, 1] each.

    A place gains reach · (click · value + (1 − click) · behind − now).
    """
    gains, items = list[Tensor](), list[Tensor]()
    for reach, now, behind in zip(*(part.split(1, 1) for part in places), strict=True):
        gain = reach * (click * (values - behind) + (behind - now))
        best, at = gain.masked_fill(~may, -torch.inf).max(1, keepdim=True)
        gains.append(best)
        items.append(torch.where(best > -torch.inf, at, -1))
    place = torch.cat(gains, 1).argmax(1, keepdim=True)
    return torch.cat(items, 1).gather(1, place), place


def _insert(items: Tensor, item: Tensor, place: Tensor) -> Tensor:
    """Put an item [B, 1] in its place, −1 for none; the items from there on move on."""
    columns = torch.arange(items.shape[1], device=items.device)
    moved = torch.cat([item, items[:, :-1]], 1)
    put = torch.where(columns < place, items, torch.where(columns == place, item, moved))
    return torch.where(item >= 0, put, items)


def _in_slots(items: Tensor, own: Tensor) -> Tensor:
    """Return slates with the items of `own` [B, K] in their slots, −1 for any, and the others between, in order."""
    free = own < 0
    return torch.where(free, items.gather(1, (free.cumsum(1) - 1).clamp(min=0)), own)


def _along_cascade(click: Tensor, values: Tensor, no_click_value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of reaching each slot and what the cascade is worth from there on, both [B, K + 1]."""
    ahead = [no_click_value]
    for slot in reversed(range(click.shape[1])):
        ahead.append(torch.lerp(ahead[-1], values[:, slot], click[:, slot]))
    reach = torch.cat([torch.ones_like(click[:, :1]), (1 - click).cumprod(1)], 1)
    return reach, torch.stack(ahead[::-1], 1)
