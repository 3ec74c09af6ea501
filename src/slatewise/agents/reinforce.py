"""REINFORCE with off-policy and top-K correction: a policy gradient from what it did itself, or from a log.

Source: Chen et al. 2019, arXiv 1812.02353, sections 3 and 4; Williams 1992. The gradient of what an item a, shown in
state s, brought is followed in the form

    min(π(a|s) / β(a|s), c) · λ_K(s, a) · R · ∇ log π(a|s),   λ_K = K (1 − π(a|s))^(K − 1),

with β the probability with which it was shown and R the return that it is credited with. The paper estimates β, here
it is the logged propensity; both π and β are those of a slot given the slots before it, so K counts the slots left.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.policy_gradient import Loss, PolicyGradient, PolicyGradientSettings
from slatewise.interactions import Interactions
from slatewise.returns import returns_to_go


class Settings(PolicyGradientSettings):
    """Settings of REINFORCE."""

    credit: Literal["item", "slate"] = Field(
        "item", description="who is credited with a return: the item that was clicked, or the slate as a whole"
    )
    top_k: int = Field(
        0, ge=0, description="K of the top-K correction of items; 0 is the slate's size, 1 leaves it out"
    )
    weight_cap: float = Field(20.0, ge=0, description="c: largest weight π / β of a decision; 0 leaves weights out")
    baseline: bool = Field(True, description="returns count by how far they are above the value of the state")
    log_epochs: int = Field(10, ge=1, description="passes over each block of a log (65,536 decisions, or all)")
    batch_size: int = Field(1000, ge=1, description="decisions in a gradient step on a log")


class Reinforce(PolicyGradient):
    """A policy gradient that learns from its own decisions, and from a log of anybody's with propensities."""

    name = "reinforce"
    summary_text = "policy gradient with off-policy and top-K correction, in simulation and from logs"
    Settings = Settings
    learns_from_logs = True
    needs_propensities = True

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return cast(Settings, self._settings)

    def update(self) -> dict[str, float] | None:
        """Learn from a full rollout, or return None before it is full.

        Returns `loss`, `value_loss`, `value` (mean return ahead), `entropy` (of a slate, in nats) and `learning_rate`.
        Decisions whose reward is not known are left out; what comes before them is credited with the value there.
        """
        if not self.memory.full():
            return None
        return self._improve(self.memory.take(), self.settings.epochs, self.settings.minibatches)

    def learn_from(self, block: Interactions) -> None:
        """Learn from a block of a log, whoever decided."""
        self.steps += len(block)
        self._improve(block, self.settings.log_epochs, -(-len(block) // self.settings.batch_size))

    def _improve(self, rows: Interactions, epochs: int, minibatches: int) -> dict[str, float] | None:
        seen, rows = len(rows), rows[rows.response.reward_known]
        if len(rows) == 0:
            return None
        self.learn_scale(rows.observation)
        returns = returns_to_go(rows, self._ahead(rows), self.settings.discount)
        loss = self.loss(rows, self.credits(rows, returns))
        value_loss = self.fit_values(rows.observation, returns, epochs, minibatches, seen)
        metrics = self.descend(len(rows), epochs, minibatches, seen, loss)
        self.updates += 1
        return metrics | {"value_loss": value_loss, "value": float(returns.mean())}

    def _ahead(self, rows: Interactions) -> Tensor:
        """Return the value of what comes next, float64 [B]; 0 in logs that do not know it, whose sessions are over."""
        if rows.next_observation is None:
            return torch.zeros_like(rows.response.decision_reward)
        return self.values(rows.next_observation)

    def credits(self, rows: Interactions, returns: Tensor) -> Tensor:
        """Return R, in units of its root mean square: of slots, float64 [B, K], or of slates, [B, 1].

        A clicked item is credited with its reward and what came after, less the value of the state (the baseline); an
        item that was not clicked with its own reward, mostly nothing. A slate is credited with all of its return.
        returns: float64 [B], from each decision on.
        """
        response, s = rows.response, self.settings
        base = self.values(rows.observation) * s.baseline
        if s.credit == "slate":
            credit = (returns - base).unsqueeze(1)
        else:
            later = (returns - response.total_reward - base).unsqueeze(1)
            credit = response.reward + torch.where(response.clicked, later, 0.0)
        return credit / credit.square().mean().sqrt().clamp(min=1e-8)

    def loss(self, rows: Interactions, credit: Tensor) -> Loss:
        """Return the loss of rows [n], and their entropies [n], as a function of the rows."""
        s, logged = self.settings, rows.decision.propensity.log()
        by_slate = s.credit == "slate"
        top_k = 1 if by_slate else s.top_k or self.slate_size  # the gradient of whole slates needs no correction

        def of(at: Tensor) -> tuple[Tensor, Tensor]:
            policy = self.policy(rows.observation[at])
            logarithm, entropy = policy.log_propensity(rows.decision.slate[at])
            beta = logged[at]
            if by_slate:
                logarithm, beta = logarithm.sum(1, keepdim=True), beta.sum(1, keepdim=True)
            gains = gain(logarithm, beta, credit[at], top_k, s.weight_cap)
            return -(gains + s.entropy * entropy.sum(1)).mean(), entropy.sum(1)

        return of


def gain(logarithm: Tensor, logged: Tensor, credit: Tensor, top_k: int, cap: float) -> Tensor:
    """Return Σ over slots of min(π / β, c) · λ · R · log π, whose gradient is followed, float64 [B].

    Only the last factor has a gradient.  logarithm, logged: log π and log β, [B, K].  credit: R, [B, K].
    top_k: K of λ in the first slot; in each later one it is one less, because fewer slots are left.
    cap: c; 0 takes 1 for all weights.
    """
    known = logarithm.detach()
    weight = (known - logged).clamp(max=20.0).exp().clamp(max=cap) if cap else torch.ones_like(known)
    left = (top_k - torch.arange(known.shape[1], device=known.device)).clamp(min=1)
    multiplier = left * (-known.expm1()).clamp(min=0) ** (left - 1)
    return (weight * multiplier * credit * logarithm).sum(1)
