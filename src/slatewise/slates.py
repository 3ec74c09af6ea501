"""From scores to slates: top-k, the best slate under a choice model, sampling without replacement.

Slates are int64 [B, K] positions of candidates, −1 for a hole. Per-slot propensities are float64 [B, K],
conditional on the slots before; a hole has 1.
"""

import torch
from torch import Tensor

from slatewise.cascades import best_cascade, greedy_cascade
from slatewise.choice import Cascade, Choice, FirstPosition, Multinomial, PositionBased
from slatewise.constraints import Filling, Limits
from slatewise.errors import InputError
from slatewise.interactions import Observation
from slatewise.noise import mix, pair_keys


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
    return slate if filling.limits is None else _improved(*problem, filling, slate)


def _improved(w: Tensor, w0: Tensor, v: Tensor, v0: Tensor, filling: Filling, slate: Tensor) -> Tensor:
    """Return the best slates, beginning at any [B, K].

    A slate is best when it has the largest sum of w (v − rate) at a rate equal to its own value; repeating converges
    in a few steps, each strictly better but for the first. Rows that are done are left behind.
    """
    result, rows = slate, torch.arange(len(slate), device=slate.device)
    for _ in range(50):
        at = slate.clamp(min=0)
        weight = w.gather(1, at) * (slate >= 0)
        total = (weight * v.gather(1, at)).sum(1) + w0 * v0
        rate = total / (weight.sum(1) + w0).clamp(min=1e-300)
        better = _largest_sum(w * (v - rate.unsqueeze(1)), filling, slate.shape[1])
        result = result.index_copy(0, rows, better)
        going = (better != slate).any(1)
        if not bool(going.any()):
            break
        w, w0, v, v0, rows, slate = (part[going] for part in (w, w0, v, v0, rows, better))
        filling = filling[going]
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


def uniform_slate(mask: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k distinct candidates in order, every ordered slate equally likely; holes where there are too few.

    One uniform a slot: the j-th is a rank among the candidates left, turned into a rank among all of them by
    stepping over those taken before, kept in ascending order.
    """
    left = mask.sum(1)
    uniforms = torch.rand(k, len(mask), generator=generator, device=mask.device)
    taken: list[Tensor] = []
    slots: list[Tensor] = []
    for j in range(k):
        room = left - j
        rank = (uniforms[j] * room).long().clamp_(max=room - 1)
        for earlier in taken:
            rank = rank + (rank >= earlier)
        slots.append(torch.where(room > 0, rank, -1))
        taken = _insert(taken, rank)
    ranks = torch.stack(slots, 1)
    if bool(mask.all()):
        return ranks
    position = torch.searchsorted(mask.cumsum(1), ranks.clamp(min=0) + 1)
    return torch.where(ranks >= 0, position, -1)


def _insert(ascending: list[Tensor], new: Tensor) -> list[Tensor]:
    """Insert into a list of tensors that ascends elementwise."""
    result: list[Tensor] = []
    for old in ascending:
        result.append(torch.minimum(old, new))
        new = torch.maximum(old, new)
    return [*result, new]


def uniform_propensity(mask: Tensor, slate: Tensor) -> Tensor:
    """Return 1 / (candidates left) for every slot of a uniform ordered slate, and 1 for a hole when none are left.

    What is never shown has 0: a masked candidate, or a hole while there are candidates. No item may be twice in a
    slate: simulations ask this at every step, so it is not looked for.
    """
    taken = torch.arange(slate.shape[1], device=slate.device)
    left = mask.sum(1, keepdim=True) - taken
    shown = mask.gather(1, slate.clamp(min=0)) / left.clamp(min=1).double()
    return torch.where(slate >= 0, shown, (left <= 0).double())


def uniform_first(mask: Tensor) -> Tensor:
    """Return the probability of every candidate in the first slot of a uniform slate, float64 [B, C]."""
    return mask / mask.sum(1, keepdim=True).clamp(min=1).double()


def first_shown(slates: Tensor, weights: Tensor, candidates: int) -> Tensor:
    """Return the weight of every candidate in the first slot of S slates a row, float64 [B, C].

    slates: int64 [B, S, K].  weights: float64 [B, S].
    """
    first = slates[:, :, 0]
    weights = torch.where(first >= 0, weights, 0.0)
    return weights.new_zeros(len(slates), candidates).scatter_add(1, first.clamp(min=0), weights)


def greedy_propensity(greedy: Tensor, slate: Tensor) -> Tensor:
    """Return 1 for slots that agree with a deterministic slate as far as it goes, else 0."""
    return (slate == greedy).cumprod(1).double()


def mix_propensity(share: float, first: Tensor, second: Tensor) -> Tensor:
    """Return per-slot propensities of a policy that follows `first` with probability `share`, else `second`.

    The coin is thrown once a slate, so a slot's conditional weighs the two policies by how likely each is to have
    shown the slots before it (Bayes): the ratio of the mixed prefix probabilities, without their underflow.
    After an impossible prefix it is 0.
    """
    weight = torch.full_like(first[:, 0], share)
    columns: list[Tensor] = []
    possible = torch.ones_like(weight)
    for j in range(first.shape[1]):
        mixed = weight * first[:, j] + (1 - weight) * second[:, j]
        columns.append((mixed * possible).clamp(max=1.0))
        possible = possible * (mixed > 0)
        weight = torch.where(mixed > 0, weight * first[:, j] / mixed, weight)
    return torch.stack(columns, 1)


def epsilon_slate(greedy: Tensor, mask: Tensor, epsilon: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Show the greedy slate, or with probability epsilon (one coin a user) a uniform one; and its propensity."""
    if epsilon <= 0:
        return greedy, torch.ones_like(greedy, dtype=torch.float64)
    slate = mix_slate(greedy, mask, epsilon, generator)
    return slate, epsilon_propensity(greedy, slate, mask, epsilon)


def mix_slate(slate: Tensor, mask: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Replace slates, with probability epsilon (one coin a user), by uniform ones."""
    if epsilon <= 0:
        return slate
    random = uniform_slate(mask, slate.shape[1], generator)
    coin = torch.rand(len(slate), 1, generator=generator, device=slate.device) < epsilon
    return torch.where(coin, random, slate)


def epsilon_propensity(greedy: Tensor, slate: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Return per-slot propensities of `epsilon_slate`."""
    agreeing = greedy_propensity(greedy, slate)
    if epsilon <= 0:
        return agreeing
    return mix_propensity(epsilon, uniform_propensity(mask, slate), agreeing)


def sample_slate(logits: Tensor, mask: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw slates without replacement, each slot from the softmax of what is left; and their propensities.

    Plackett–Luce by the Gumbel top-k trick (Kool et al. 2019, arXiv 1903.06059).  logits: [B, C].
    """
    uniforms = torch.rand(logits.shape, generator=generator, dtype=torch.float64, device=logits.device)
    gumbel = -(-uniforms.clamp(min=1e-300).log()).log()
    slate = top_k(logits.double() + gumbel, mask, k)
    return slate, softmax_propensity(logits, mask, slate)


def softmax_propensity(logits: Tensor, mask: Tensor, slate: Tensor) -> Tensor:
    """Return per-slot propensities of `sample_slate` for a slate.

    What is never shown has 0: a masked candidate, one that was shown before, or a hole while there are candidates.
    """
    remaining = logits.double().masked_fill(~mask, -torch.inf)
    columns: list[Tensor] = []
    for j in range(slate.shape[1]):
        at, shown = slate[:, j : j + 1].clamp(min=0), slate[:, j] >= 0
        left = (remaining > -torch.inf).any(1)
        chosen = torch.where(left, remaining.softmax(1).gather(1, at).squeeze(1), 0.0)
        columns.append(torch.where(shown, chosen, (~left).double()))
        remaining = torch.where(shown.unsqueeze(1), remaining.scatter(1, at, -torch.inf), remaining)
    return torch.stack(columns, 1)


def _pad(slate: Tensor, k: int) -> Tensor:
    missing = k - slate.shape[-1]
    return torch.nn.functional.pad(slate, (0, missing), value=-1) if missing > 0 else slate
