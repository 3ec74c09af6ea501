"""Distributions over slates that agents draw from, each with the exact propensities of what it draws.

A slate has K slots, filled one after the other without replacement; −1 where no candidate is left.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.drawing import first_shown
from slatewise.slates import top_k

ABSENT = -1e30  # logit of what may not be shown: its probability is 0, and its gradient 0 and not NaN


@dataclass(frozen=True, eq=False)
class Votes:
    """One of S slates a row, each equally likely: [B, S, K], positions of so many candidates.

    What an ensemble of S models, or of S draws from a posterior, shows when one of them is chosen at random. Its
    propensities are shares of S: exact for what is shown, and for the posterior's own, p, within √(p (1 − p) / S).
    """

    slates: Tensor
    candidates: int

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw a slate for every row."""
        batch, count = self.slates.shape[:2]
        member = torch.randint(count, (batch,), generator=generator, device=self.slates.device)
        return self.slates[torch.arange(batch, device=member.device), member]

    def propensity(self, slate: Tensor) -> Tensor:
        """Return the share of the slates that go on like this among those that began like this."""
        agreeing = (self.slates == slate.unsqueeze(1)).cumprod(2).sum(1).double()
        before = torch.cat([torch.full_like(agreeing[:, :1], self.slates.shape[1]), agreeing[:, :-1]], 1)
        return agreeing / before.clamp(min=1)

    def first(self) -> Tensor:
        """Return the share of the slates that begin with each candidate."""
        one = torch.ones(self.slates.shape[:2], dtype=torch.float64, device=self.slates.device)
        return first_shown(self.slates, one, self.candidates) / self.slates.shape[1]


@dataclass(frozen=True, eq=False)
class Softmax:
    """Each slot from the softmax of what is left (Plackett–Luce). logits, mask: [B, C]."""

    logits: Tensor
    mask: Tensor
    slots: int

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw a slate for every row."""
        return sample_slate(self.logits, self.mask, self.slots, generator)[0]

    def propensity(self, slate: Tensor) -> Tensor:
        """Return the softmax of each slot's item among what was left."""
        return softmax_propensity(self.logits, self.mask, slate)

    def log_propensity(self, slate: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probability and entropy of each slot given the slots before it, float64 [B, K] each.

        For slates of distinct candidates that may be shown. Both can be differentiated; a hole has 0 of both.
        """
        left = self.logits.double().masked_fill(~self.mask, ABSENT)
        chosen, entropies = list[Tensor](), list[Tensor]()
        for slot in range(slate.shape[1]):
            at, shown = slate[:, slot : slot + 1].clamp(min=0), slate[:, slot : slot + 1] >= 0
            logarithm = left.log_softmax(1)
            chosen.append(torch.where(shown, logarithm.gather(1, at), 0.0))
            entropies.append(torch.where(shown, -(logarithm.exp() * logarithm).sum(1, keepdim=True), 0.0))
            left = torch.where(shown, left.scatter(1, at, ABSENT), left)
        return torch.cat(chosen, 1), torch.cat(entropies, 1)

    def first(self) -> Tensor:
        """Return the softmax over all candidates; zeros where there are none."""
        chance = self.logits.double().masked_fill(~self.mask, -torch.inf).softmax(1)
        return torch.where(self.mask.any(1, keepdim=True), chance, 0.0)


@dataclass(frozen=True, eq=False)
class InverseGap:
    """Each slot by inverse gap weighting of what is left (Abe & Long 1999; Foster & Rakhlin 2020, arXiv 2002.04926).

    With m candidates left and g the gap of one's value to the best's, it is shown with probability 1 / (m + γ g); the
    best has what is missing to 1.  values, mask: [B, C].  rate: γ.
    """

    values: Tensor
    mask: Tensor
    slots: int
    rate: float

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw a slate for every row."""
        left, slots = self.mask, list[Tensor]()
        for _ in range(self.slots):
            weights = self._slot(left)
            some = weights.sum(1) > 0
            item = torch.where(some.unsqueeze(1), weights, 1.0).multinomial(1, generator=generator)
            slots.append(torch.where(some.unsqueeze(1), item, -1))
            left = left.scatter(1, item, False)
        return torch.cat(slots, 1)

    def propensity(self, slate: Tensor) -> Tensor:
        """Return each slot's probability given the slots before."""
        left, columns = self.mask, list[Tensor]()
        for slot in range(slate.shape[1]):
            item = slate[:, slot : slot + 1]
            shown = self._slot(left).gather(1, item.clamp(min=0))
            columns.append(torch.where(item >= 0, shown, (~left.any(1, keepdim=True)).double()))
            left = torch.where(item >= 0, left.scatter(1, item.clamp(min=0), False), left)
        return torch.cat(columns, 1)

    def first(self) -> Tensor:
        """Return the first slot's probability of every candidate."""
        return self._slot(self.mask).double()

    def _slot(self, left: Tensor) -> Tensor:
        """Return the probability of every candidate in the next slot, [B, C]; zeros where nobody is left."""
        best = top_k(self.values, left, 1)
        gap = self.values.gather(1, best.clamp(min=0)) - self.values
        others = left.scatter(1, best.clamp(min=0), False)
        chance = torch.where(others, 1 / (left.sum(1, keepdim=True) + self.rate * gap), 0.0)
        rest = torch.where(left.any(1, keepdim=True), 1 - chance.sum(1, keepdim=True), 0.0)
        return chance.scatter(1, best.clamp(min=0), rest)


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
