"""The best slate of users who go down it and take the first item that pleases, exact and greedy."""

import torch
from torch import Tensor

from slatewise.constraints import Filling


def best_cascade(click: Tensor, values: Tensor, no_click_value: Tensor, order: Tensor, k: int) -> Tensor:
    """Return the slate [B, K] of highest expected value among users who go down it, by dynamic programming.

    click: P(click if reached), [B, C].  values: [B, C].  no_click_value: [B].  order: int64 [B, C], the candidates that
    may be shown in order of falling value, the best order of any set, then −1.
    best(m, i), the worth of the best m items from the i-th on, is the largest over j ≥ i of
    click(j) value(j) + (1 − click(j)) best(m − 1, j + 1): a running maximum from the end. best(0, i) is no click.
    """
    candidates, count = order.shape[1], (order >= 0).sum(1, keepdim=True)
    at = order.clamp(min=0)
    p, v = click.double().gather(1, at), values.double().gather(1, at)
    place = torch.arange(candidates, device=order.device)
    ahead, first = no_click_value.double().unsqueeze(1).expand_as(v), list[Tensor]()
    for slots in range(1, min(k, candidates) + 1):
        worth = torch.lerp(ahead, v, p).masked_fill(place > count - slots, -torch.inf)
        best, where = worth.flip(1).cummax(1)
        first.append(candidates - 1 - where.flip(1))
        ahead = torch.nn.functional.pad(best.flip(1)[:, 1:], (0, 1))
    slate = _follow(torch.stack(first, 1), order, count)
    return torch.nn.functional.pad(slate, (0, k - slate.shape[1]), value=-1)


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
    """Fill slates [B, K] by the largest gain of an item in its place by value; a hole is last and is never reached.

    Arguments as in `best_cascade`. An item put at place j gains reach(j) · click · (value − what the slate is worth
    from j on). Fixed items come first, as if they had no slot, and are put in theirs at the end.
    """
    slate = torch.full_like(values[:, :1], -1, dtype=torch.int64).expand(-1, k)
    own = slate if filling.limits is None else filling.limits.fixed
    for slot in range(k):
        if int(own[:, slot].max()) >= 0:
            slate = _insert_by_value(slate, own[:, slot : slot + 1], values)
    for _ in range(k):
        gain = _gains(click, values, no_click_value, slate)
        best, at = gain.masked_fill(~(filling.open() & (slate[:, -1:] < 0)), -torch.inf).max(1, keepdim=True)
        item = torch.where(best > -torch.inf, at, -1)
        slate = _insert_by_value(slate, item, values)
        filling = filling.take(item)
    return _put_in_slots(slate, own)


def _gains(click: Tensor, values: Tensor, no_click_value: Tensor, slate: Tensor) -> Tensor:
    """Return what a slate in order of falling value gains by each candidate in its place, [B, C]."""
    shown, at = slate >= 0, slate.clamp(min=0)
    p, v = click.gather(1, at) * shown, values.gather(1, at).masked_fill(~shown, -torch.inf)
    reach, ahead = _along_cascade(p, torch.where(shown, v, 0.0), no_click_value)
    place = _place(v, values)
    return reach.gather(1, place) * click * (values - ahead.gather(1, place))


def _place(held: Tensor, values: Tensor) -> Tensor:
    """Return how many of the values held [B, K] are no smaller than each value [B, C]."""
    place = torch.zeros_like(values, dtype=torch.int64)
    for slot in range(held.shape[1]):
        place += held[:, slot : slot + 1] >= values
    return place


def _insert_by_value(slate: Tensor, item: Tensor, values: Tensor) -> Tensor:
    """Put an item [B, 1] into slates in order of falling value, −1 for none; the others move on."""
    held = values.gather(1, slate.clamp(min=0)).masked_fill(slate < 0, -torch.inf)
    where = _place(held, values.gather(1, item.clamp(min=0)))
    columns = torch.arange(slate.shape[1], device=slate.device)
    moved = torch.cat([item, slate[:, :-1]], 1)
    put = torch.where(columns < where, slate, torch.where(columns == where, item, moved))
    return torch.where(item >= 0, put, slate)


def _put_in_slots(slate: Tensor, own: Tensor) -> Tensor:
    """Return slates with the items of `own` [B, K] in their slots, −1 for any, and the others between, in order."""
    if int(own.max()) < 0:
        return slate
    others = ~((slate.unsqueeze(2) == own.unsqueeze(1)) & (slate >= 0).unsqueeze(2)).any(2)
    free, order = own < 0, (~others).int().argsort(dim=1, stable=True)
    rank = (free.cumsum(1) - 1).clamp(min=0)
    return torch.where(free, slate.gather(1, order).gather(1, rank), own)


def _along_cascade(click: Tensor, values: Tensor, no_click_value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of reaching each slot and what the cascade is worth from there on, both [B, K + 1]."""
    ahead = [no_click_value]
    for slot in reversed(range(click.shape[1])):
        ahead.append(torch.lerp(ahead[-1], values[:, slot], click[:, slot]))
    reach = torch.cat([torch.ones_like(click[:, :1]), (1 - click).cumprod(1)], 1)
    return reach, torch.stack(ahead[::-1], 1)
