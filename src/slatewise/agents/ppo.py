"""PPO: steps of a policy that are held close to the policy that acted.

Sources: Schulman et al. 2017, arXiv 1707.06347 (clipped surrogate, its equation 7); Schulman et al. 2016, arXiv
1506.02438 (generalised advantages). An action is a whole ordered slate, drawn without replacement.
"""

from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.policy_gradient import Loss, PolicyGradient, PolicyGradientSettings
from slatewise.agents.replay import check_rewards
from slatewise.drawing import uniform_propensity
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation
from slatewise.returns import lambda_returns


class Settings(PolicyGradientSettings):
    """Settings of PPO."""

    epochs: int = Field(4, ge=1, description="passes over a rollout")
    entropy: float = Field(0.03, ge=0, description="bonus for the entropy of the policy, beside advantages of size 1")
    trace: float = Field(0.95, ge=0, le=1, description="λ: how far advantages look before values take over")
    clip: float = Field(0.2, gt=0, lt=1, description="ε: how far the ratio to what acted may pay, from 1")


class PPO(PolicyGradient):
    """Proximal policy optimisation over slates."""

    name = "ppo"
    summary_text = "policy gradient with a clipped ratio, over ordered slates drawn without replacement"
    Settings = Settings

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return cast(Settings, self._settings)

    def observe(self, interactions: Interactions) -> None:
        """Remember one vector step. Raises InputError where something that PPO needs is missing."""
        if interactions.next_observation is None:
            raise InputError("ppo learns from what comes next, and these interactions have no next_observation")
        check_rewards(interactions, self.name)
        super().observe(interactions)

    def update(self) -> dict[str, float] | None:
        """Learn from a full rollout, or return None before it is full.

        Returns `loss`, `value_loss`, `value` (mean return ahead), `entropy` (of a slate, in nats) and `learning_rate`.
        """
        if not self.memory.full():
            return None
        s, rollout = self.settings, self.memory.take()
        self.learn_scale(rollout.observation)
        returns, advantages = self.advantages(rollout)
        shape = s.epochs, s.minibatches, len(rollout)
        value_loss = self.fit_values(rollout.observation, returns, *shape)
        metrics = self.descend(len(rollout), *shape, self.loss(rollout, advantages))
        self.updates += 1
        return metrics | {"value_loss": value_loss, "value": float(returns.mean())}

    def loss(self, rollout: Interactions, advantages: Tensor) -> Loss:
        """Return the loss of rows [n], and their entropies [n], as a function of the rows."""
        old, s = rollout.decision.propensity.log().sum(1), self.settings

        def of(at: Tensor) -> tuple[Tensor, Tensor]:
            logarithm, entropy = self.joint(rollout.observation[at], rollout.decision.slate[at])
            gain = clipped_surrogate(logarithm, old[at], advantages[at], s.clip)
            return -(gain + s.entropy * entropy).mean(), entropy

        return of

    def joint(self, observation: Observation, slate: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of whole slates as this agent shows them, and their entropies, float64 [B] each.

        Exploration included, which shows a uniform slate with probability ε; so at the first step the ratio to what
        acted is 1.
        """
        own, entropy = (part.sum(1) for part in self.policy(observation).log_propensity(slate))
        epsilon = self.epsilon()
        if epsilon <= 0:
            return own, entropy
        share = torch.tensor([epsilon, 1 - epsilon], dtype=torch.float64, device=own.device).log()
        uniform = uniform_propensity(observation.mask, slate).log().sum(1)
        return torch.logaddexp(uniform + share[0], own + share[1]), entropy

    def advantages(self, rollout: Interactions) -> tuple[Tensor, Tensor]:
        """Return λ-returns and standardised generalised advantages, float64 [T · B] each.

        The sum of (γλ)ᵏ δ over steps, δ = r + γ V(s′) − V(s), is the λ-return less V(s). Truncated sessions go on with
        V(s′), terminated ones have no future.
        """
        assert rollout.next_observation is not None  # `observe` refused it
        following = self.values(rollout.next_observation)
        parts = rollout.response.total_reward, following, rollout.terminated, rollout.truncated
        reward, following, terminated, truncated = (part.view(self.memory.steps, -1) for part in parts)
        s = self.settings
        returns = lambda_returns(reward, following, terminated, truncated, s.discount, s.trace).flatten()
        advantages = returns - self.values(rollout.observation)
        return returns, (advantages - advantages.mean()) / advantages.std(correction=0).clamp(min=1e-8)


def clipped_surrogate(logarithm: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return min(ρ A, clip(ρ, 1 − ε, 1 + ε) A), ρ the ratio of new to old probability from their logarithms, [B].

    The logarithm of the ratio is held below 20, where its exponential is still finite in float32.
    """
    ratio = (logarithm - old).clamp(max=20.0).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
