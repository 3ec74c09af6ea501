"""From scores to slates: top-k, and the best slate under a choice model.

Slates are int64 [B, K] positions of candidates, −1 for a hole.
"""

import torch
from torch import Tensor

from slatewise.cascades import best_cascade, greedy_cascade
from slatewise.choice import Cascade, Choice, FirstPosition, Multinomial, PositionBased
from slatewise.constraints import Filling, Limits
from slatewise.errors import InputError
from slatewise.interactions import Observation
from slatewise.noise import mix, pair_keys

LIGHT = 1e-6  # the weight of no click, beside an item's, below which light slates may be lost in rounding
ROUNDING = 1e-13  # more than the rounding error of a slate's value, in units of the largest one


def top_k(values: Tensor, mask: Tensor, k: int) -> Tensor:
    """Return the k candidates of highest value [..., C], best first, as [..., k]; holes where fewer may be shown.

    mask: as values, or broadcast to them.  Raises InputError for a value that is not a number.
    """
    known = _shown(values, mask)
    found = known.max(-1, keepdim=True) if k == 1 else known.topk(min(k, values.shape[-1]), dim=-1)
    _check_numbers(found.values)
    return _pad(torch.where(found.values > -torch.inf, found.indices, -1), k)


def top_candidates(values: Tensor, observation: Observation, k: int) -> Tensor:
    """Return the k candidates of highest value, as `top_k`; equals in the order of a hash of user and item.

    So what nobody has tried is tried in all directions, whatever the order of the candidates: by position, every user
    would meet the first item first.  values: [B, C], or [B, S, C] for S opinions, each with an order of its own.
    """
    mask = observation.mask if values.ndim == 2 else observation.mask.unsqueeze(1)
    known = _shown(values, mask)
    if k == 1:
        return _best_candidate(known, observation)
    best = known.topk(min(k + 1, known.shape[-1]), dim=-1)
    _check_numbers(best.values)
    if not bool(((best.values[..., 1:] == best.values[..., :-1]) & (best.values[..., 1:] > -torch.inf)).any()):
        return _pad(torch.where(best.values > -torch.inf, best.indices, -1)[..., :k], k)
    order = _order_of_equals(known, observation).argsort(dim=-1, stable=True)
    found = known.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return _pad(torch.where(found.values > -torch.inf, order.gather(-1, found.indices), -1)[..., :k], k)


def _best_candidate(known: Tensor, observation: Observation) -> Tensor:
    """Return the candidate of highest value, [..., 1]: where only one has it, by finding that value again.

    A maximum without its index takes a quarter of the time of one with it.
    """
    best = known.amax(-1, keepdim=True)
    _check_numbers(best)
    equal = known == best
    places = equal.nonzero()
    if len(places) == best.numel():
        found = places[:, -1].view(best.shape)
    else:
        last = torch.iinfo(torch.int64).max
        found = torch.where(equal, _order_of_equals(known, observation), last).argmin(-1, keepdim=True)
    return torch.where(best > -torch.inf, found, -1)


def _order_of_equals(known: Tensor, observation: Observation) -> Tensor:
    """Return a hash of user, opinion and item, int64, as known: among equals the lowest comes first."""
    keys = pair_keys(observation, observation.item_ids)
    if known.ndim == 3:
        keys = keys.unsqueeze(1) + torch.arange(known.shape[1], device=keys.device).unsqueeze(1)
    return mix(keys)


def _shown(values: Tensor, mask: Tensor) -> Tensor:
    """Return values, −∞ for what may not be shown."""
    return values if bool(mask.all()) else torch.where(mask, values, -torch.inf)


def _check_numbers(best: Tensor) -> None:
    """Raise InputError where the highest values [..., k] are none: NaN comes before all numbers."""
    if bool(best.isnan().any()):
        row = int(best.isnan().nonzero()[0, 0])
        raise InputError(f"a candidate's value in row {row} is NaN: the model that gave it has diverged")


def best_slate(
    choice: Choice,
    scores: Tensor,
    values: Tensor,
    no_click_value: Tensor,
    mask: Tensor,
    k: int,
    limits: Limits | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the slate [B, K] of highest expected value under a choice model, and that value [B].

    The expected value is Σ P(i | slate) values(i) + P(no click | slate) no_click_value: no click is
    valued like any other item.  scores: [B, C] of the choice model.  values: [B, C].
    no_click_value: [B].  limits: what every slate must keep to, from `constraints.Constraints.on`.
    Slates are filled as far as there are candidates.

    Exact. Multinomial choice by fractional programming (Dinkelbach 1967; Ie et al. 2019, arXiv 1905.12767, section 5),
    its linear steps by taking the best, under limits the best that leaves a slate which can be completed
    (`constraints.Filling`). Cascades by dynamic programming (Kempe & Mahdian 2008, "A cascade model for externalities
    in sponsored search"). Users who always take the first position are shown the best item there.
    Logits of a row, no click's included, may be up to 700 apart: weights are float64, and below that they are 0.
    Raises InputError for a choice model without a method, which a cascade under limits on categories or slots is.
    """
    known, filling = _single_choice(choice), Filling.of(mask, limits, k)
    if isinstance(known, FirstPosition):
        slate = _largest_sum(values, filling, k)
    elif isinstance(known, Multinomial):
        slate = _best_multinomial(*_weights(known, scores, mask), values, no_click_value, filling, k)
    else:
        _check_cascade(known, limits, k)
        top_k(values, mask, 1)  # raises where a value is not a number
        slate = best_cascade(known.click_if_reached(scores), values, no_click_value, filling.open(), k)
    return slate, slate_value(known, scores, values, no_click_value, slate)


def greedy_slate(
    choice: Choice,
    scores: Tensor,
    values: Tensor,
    no_click_value: Tensor,
    mask: Tensor,
    k: int,
    limits: Limits | None = None,
) -> Tensor:
    """Return a slate [B, K] filled one item after the other, each the one that makes the slate so far worth most.

    Worth, scores, values, no_click_value and limits as in `best_slate`. In a cascade a new item is put in its best
    place, which is by falling value: swapping neighbours i, j for j, i changes the worth by
    reach · P(i) P(j) (values(j) − values(i)). Under limits each item is the best that leaves a slate which can be
    completed; fixed items are in their slots from the start, and others stand between them.
    A heuristic: the page on slates says how often it finds the best one. Source: Ie et al. 2019, arXiv 1905.12767,
    section 5. Raises InputError for a choice model without a method.
    """
    known, filling = _single_choice(choice), Filling.of(mask, limits, k)
    if isinstance(known, FirstPosition):
        return _largest_sum(values, filling, k)
    if isinstance(known, Multinomial):
        return _greedy_multinomial(*_weights(known, scores, mask), values, no_click_value, filling, k)
    top_k(values, mask, 1)  # raises where a value is not a number
    return greedy_cascade(known.click_if_reached(scores), values, no_click_value, filling, k)


def top_k_slate(
    choice: Choice,
    scores: Tensor,
    values: Tensor,
    no_click_value: Tensor,
    mask: Tensor,
    k: int,
    limits: Limits | None = None,
) -> Tensor:
    """Return the k items of highest weight · (value − no_click_value), best first, [B, K].

    Quicker than `best_slate` and `greedy_slate`: it leaves out how items of a slate take choices from each other.
    Weight is the unnormalised choice probability, in cascades the chance of a click if reached. Worth, scores, values,
    no_click_value and limits as in `best_slate`; with no_click_value 0 it is the rule of Ie et al. 2019,
    arXiv 1905.12767, section 5. Raises InputError for a choice model without a method.
    """
    known, filling = _single_choice(choice), Filling.of(mask, limits, k)
    if isinstance(known, FirstPosition):
        return _largest_sum(values, filling, k)
    weights = _weights(known, scores, mask)[0] if isinstance(known, Multinomial) else known.click_if_reached(scores)
    return _largest_sum(weights * (values - no_click_value.unsqueeze(1)), filling, k)


def slate_value(choice: Choice, scores: Tensor, values: Tensor, no_click_value: Tensor, slate: Tensor) -> Tensor:
    """Return Σ P(i | slate) values(i) + P(no click | slate) no_click_value, as [B]."""
    at, shown = slate.clamp(min=0), slate >= 0
    probabilities = _single_choice(choice).probabilities(scores.gather(1, at), shown)
    return (probabilities[:, :-1] * values.gather(1, at)).sum(1) + probabilities[:, -1] * no_click_value


def _single_choice(choice: Choice) -> Multinomial | Cascade | FirstPosition:
    if isinstance(choice, Multinomial | Cascade | FirstPosition):
        return choice
    if isinstance(choice, PositionBased):
        raise InputError(
            f"the choice model {choice.name!r} has independent clicks, so no slate is worth more than the sum of its "
            "slots: show the items of highest value, best first (slates.top_k)"
        )
    raise InputError(
        f"no method for slates under the choice model {choice.name!r}: use logit, proportional, exponential-cascade, "
        "proportional-cascade or first-position"
    )


def _weights(choice: Multinomial, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights in float64, those that may not be shown without a say in their scale.

    A candidate of overwhelming score need not be in the best slate, and the others must not be rounded to 0 beside it.
    """
    return choice.weights(scores.double().masked_fill(~mask, -torch.inf))


def _check_cascade(choice: Cascade, limits: Limits | None, k: int) -> None:
    if limits is not None and limits.couple(k):
        raise InputError(
            f"no exact slate is known under {choice.name!r} with limits on categories or slots: use greedy_slate "
            "(SlateQ: serve=greedy and target=greedy), or exclude items only"
        )


def _largest_sum(values: Tensor, filling: Filling, k: int) -> Tensor:
    """Return the slate of largest sum of values, best first; exact under limits too, see `Filling`."""
    if filling.limits is None:
        return top_k(values, filling.left, k)
    slots = list[Tensor]()
    for slot in range(k):
        slots.append(top_k(values, filling.at(slot), 1))
        filling = filling.take(slots[-1])
    return torch.cat(slots, 1)


def _best_multinomial(
    weights: Tensor, no_click_weight: Tensor, values: Tensor, no_click_value: Tensor, filling: Filling, k: int
) -> Tensor:
    """Maximise (Σ w v + w₀ v₀) / (Σ w + w₀) over slates of size k.

    Under limits, where a step costs more, it starts from what is best without them: few steps are left.
    """
    problem = weights, no_click_weight, values, no_click_value
    free = Filling.of(filling.open(), None, k)
    slate = _improved(*problem, free, top_k(weights * (values - no_click_value.unsqueeze(1)), free.left, k))
    slate = slate if filling.limits is None else _improved(*problem, filling, slate)
    return _freed(*problem, filling, slate)


def _improved(w: Tensor, w0: Tensor, v: Tensor, v0: Tensor, filling: Filling, slate: Tensor) -> Tensor:
    """Return the best slates, beginning at any [B, K].

    A slate is best when it has the largest sum of w (v − rate) at a rate equal to its own value; repeating converges
    in a few steps, each strictly better but for the first. Rows that are done are left behind.
    """
    result, rows = slate, torch.arange(len(slate), device=slate.device)
    for _ in range(50):
        rate = _worth(w, w0, v, v0, slate)
        better = _largest_sum(w * (v - rate.unsqueeze(1)), filling, slate.shape[1])
        result = result.index_copy(0, rows, better)
        going = (better != slate).any(1)
        if not bool(going.any()):
            break
        w, w0, v, v0, rows, slate = (part[going] for part in (w, w0, v, v0, rows, better))
        filling = filling[going]
    return result


def _worth(w: Tensor, w0: Tensor, v: Tensor, v0: Tensor, slate: Tensor) -> Tensor:
    """Return (Σ w v + w₀ v₀) / (Σ w + w₀) of slates [B, K], as [B]."""
    at = slate.clamp(min=0)
    weight = w.gather(1, at) * (slate >= 0)
    total = (weight * v.gather(1, at)).sum(1) + w0 * v0
    return total / (weight.sum(1) + w0).clamp(min=1e-300)


def _freed(w: Tensor, w0: Tensor, v: Tensor, v0: Tensor, filling: Filling, slate: Tensor) -> Tensor:
    """Return the best slates [B, K], beginning at those that `_improved` found.

    An item that outweighs all others makes the rate its own value, and what rounding leaves of its w (v − rate) may be
    more than all that lighter items are worth: then it stays, or it goes and comes. At a rate that is higher by more
    than rounding it goes, and where the largest sum is positive that slate is better. Asked only where no click weighs
    next to nothing beside some item: elsewhere no slate is so light.
    """
    going = w0 < LIGHT * w.amax(1)
    if not bool(going.any()):
        return slate
    value, result, rows = _worth(w, w0, v, v0, slate), slate, torch.arange(len(slate), device=slate.device)
    rise = ROUNDING * torch.maximum(v.masked_fill(w == 0, 0.0).abs().amax(1), v0.abs()).double()
    while bool(going.any()):
        w, w0, v, v0, value, rise, rows = (part[going] for part in (w, w0, v, v0, value, rise, rows))
        filling = filling[going]
        other = _largest_sum(w * (v - (value + rise).unsqueeze(1)), filling, slate.shape[1])
        worth = _worth(w, w0, v, v0, other)
        going = worth > value + rise / 2
        result = result.index_copy(0, rows[going], other[going])
        value = worth
    return result


def _greedy_multinomial(
    weights: Tensor, no_click_weight: Tensor, values: Tensor, no_click_value: Tensor, filling: Filling, k: int
) -> Tensor:
    """Fill slots by the largest (total + w v) / (weight + w), total and weight those of what is there already."""
    earned, taken = weights * values, filling.fixed()
    total = (no_click_weight * no_click_value).unsqueeze(1) + (earned * taken).sum(1, keepdim=True)
    weight, slots = no_click_weight.unsqueeze(1) + (weights * taken).sum(1, keepdim=True), list[Tensor]()
    for slot in range(k):
        item = top_k((total + earned) / (weight + weights).clamp(min=1e-300), filling.at(slot), 1)
        at = item.clamp(min=0)
        new = (item >= 0) & ~taken.gather(1, at)
        total = total + earned.gather(1, at) * new
        weight = weight + weights.gather(1, at) * new
        filling = filling.take(item)
        slots.append(item)
    return torch.cat(slots, 1)


def _pad(slate: Tensor, k: int) -> Tensor:
    missing = k - slate.shape[-1]
    return torch.nn.functional.pad(slate, (0, missing), value=-1) if missing > 0 else slate
