"""From scores to slates: top-k, the best slate under a choice model, sampling without replacement.

Slates are int64 [B, K] positions of candidates, −1 for a hole. Per-slot propensities are float64 [B, K],
conditional on the slots before; a hole has 1.
"""

import torch
from torch import Tensor

from slatewise.choice import Choice, FirstPosition, Multinomial
from slatewise.errors import InputError


def top_k(values: Tensor, mask: Tensor, k: int) -> Tensor:
    """Return the k candidates of highest value [B, C], best first; holes where fewer may be shown."""
    found = values.masked_fill(~mask, -torch.inf).topk(min(k, values.shape[1]), dim=1)
    return _pad(torch.where(found.values > -torch.inf, found.indices, -1), k)


def best_slate(
    choice: Choice, scores: Tensor, values: Tensor, no_click_value: Tensor, mask: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Return the slate [B, K] of highest expected value under a choice model, and that value [B].

    The expected value is Σ P(i | slate) values(i) + P(no click | slate) no_click_value: no click is
    valued like any other item.  scores: [B, C] of the choice model.  values: [B, C].
    no_click_value: [B].  Exact for multinomial choice (fractional programming: Dinkelbach 1967; Ie et al. 2019,
    arXiv 1905.12767, section 5) and for users who always take the first position.
    Raises InputError for a choice model without an exact method.
    """
    if isinstance(choice, FirstPosition):
        slate = top_k(values, mask, k)
    elif isinstance(choice, Multinomial):
        slate = _best_multinomial(*choice.weights(scores), values, no_click_value, mask, k)
    else:
        raise InputError(
            f"no exact slate for the choice model {choice.name!r}: use logit, proportional or first-position"
        )
    return slate, slate_value(choice, scores, values, no_click_value, slate)


def slate_value(choice: Choice, scores: Tensor, values: Tensor, no_click_value: Tensor, slate: Tensor) -> Tensor:
    """Return Σ P(i | slate) values(i) + P(no click | slate) no_click_value, as [B]."""
    at, shown = slate.clamp(min=0), slate >= 0
    probabilities = choice.probabilities(scores.gather(1, at), shown)
    return (probabilities[:, :-1] * values.gather(1, at)).sum(1) + probabilities[:, -1] * no_click_value


def _best_multinomial(
    weights: Tensor, no_click_weight: Tensor, values: Tensor, no_click_value: Tensor, mask: Tensor, k: int
) -> Tensor:
    """Maximise (Σ w v + w₀ v₀) / (Σ w + w₀) over slates of size k.

    A slate is best when it is the top k by w (v − rate) at a rate equal to its own value; repeating from any
    start converges in a few steps, each strictly better.
    """
    rate = no_click_value
    slate = top_k(weights * (values - rate.unsqueeze(1)), mask, k)
    for _ in range(50):
        at, shown = slate.clamp(min=0), slate >= 0
        w = weights.gather(1, at) * shown
        total = (w * values.gather(1, at)).sum(1) + no_click_weight * no_click_value
        rate = total / (w.sum(1) + no_click_weight)
        better = top_k(weights * (values - rate.unsqueeze(1)), mask, k)
        if bool((better == slate).all()):
            break
        slate = better
    return slate


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
    """Return 1 / (candidates left) for every slot of a uniform ordered slate."""
    taken = torch.arange(slate.shape[1], device=slate.device)
    left = (mask.sum(1, keepdim=True) - taken).clamp(min=1).double()
    return torch.where(slate >= 0, 1.0 / left, 1.0)


def greedy_propensity(greedy: Tensor, slate: Tensor) -> Tensor:
    """Return 1 for slots that agree with a deterministic slate as far as it goes, else 0."""
    return (slate == greedy).cumprod(1).double()


def mix_propensity(share: float, first: Tensor, second: Tensor) -> Tensor:
    """Return per-slot propensities of a policy that follows `first` with probability `share`, else `second`.

    The coin is thrown once a slate, so the mixture is of whole prefixes: the conditional of a slot is the ratio
    of the mixed probabilities of its prefix and of the one before. After an impossible prefix it is 0.
    """
    prefix = share * first.cumprod(1) + (1 - share) * second.cumprod(1)
    before = torch.cat([torch.ones_like(prefix[:, :1]), prefix[:, :-1]], 1)
    return torch.where(before > 0, prefix / before.clamp(min=1e-300), 0.0).clamp_(max=1.0)


def epsilon_slate(greedy: Tensor, mask: Tensor, epsilon: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Show the greedy slate, or with probability epsilon (one coin a user) a uniform one; and its propensity."""
    if epsilon <= 0:
        return greedy, torch.ones_like(greedy, dtype=torch.float64)
    random = uniform_slate(mask, greedy.shape[1], generator)
    coin = torch.rand(len(greedy), 1, generator=generator, device=greedy.device) < epsilon
    slate = torch.where(coin, random, greedy)
    return slate, epsilon_propensity(greedy, slate, mask, epsilon)


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
    """Return per-slot propensities of `sample_slate` for a slate."""
    remaining = logits.double().masked_fill(~mask, -torch.inf)
    columns: list[Tensor] = []
    for j in range(slate.shape[1]):
        at, shown = slate[:, j : j + 1].clamp(min=0), slate[:, j] >= 0
        chosen = remaining.softmax(1).gather(1, at).squeeze(1)
        columns.append(torch.where(shown, chosen, 1.0))
        remaining = torch.where(shown.unsqueeze(1), remaining.scatter(1, at, -torch.inf), remaining)
    return torch.stack(columns, 1)


def _pad(slate: Tensor, k: int) -> Tensor:
    missing = k - slate.shape[1]
    return torch.nn.functional.pad(slate, (0, missing), value=-1) if missing > 0 else slate
