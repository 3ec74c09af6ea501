"""What policy gradients share: a softmax policy over slates, a network of values, steps along a gradient.

The policy draws the items of a slate one after the other from the softmax of what is left (Plackett–Luce), so the
probability of a slate has a closed form, and so has its gradient.
"""

from abc import ABC
from collections.abc import Callable
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.base import Agent, NetworkSettings, check_loss
from slatewise.agents.replay import Rollout
from slatewise.distributions import Softmax
from slatewise.interactions import Interactions, Observation
from slatewise.networks import TowerRegression
from slatewise.policies import DrawingPolicy
from slatewise.slates import top_k

Loss = Callable[[Tensor], tuple[Tensor, Tensor]]  # of rows [n]: their loss, and the entropies of their slates [n]


class PolicyGradientSettings(NetworkSettings):
    """Settings of agents that follow the gradient of a policy."""

    epochs: int = Field(1, ge=1, description="passes over a rollout")
    learning_rate: float = Field(1e-3, gt=0, description="at the start; falls to 0 over the planned steps")
    discount: float = Field(1.0, ge=0, le=1, description="γ: what a reward one step later is worth; 0 is myopic")
    entropy: float = Field(0.01, ge=0, description="bonus for the entropy of the policy, beside advantages of size 1")


class PolicyGradient(DrawingPolicy, Agent, ABC):
    """An agent with a network for the logits of its policy and another for the value of a state."""

    needs_item_features = True

    def build(self, settings: Any) -> None:
        """Take the settings and make both networks and the memory."""
        self._settings = s = cast(PolicyGradientSettings, settings)
        network = self.spec, s.hidden, s.embedding, s.learning_rate, self.seed, self.device, s.encoder
        self.actor, self.critic = TowerRegression(*network), TowerRegression(*network)
        self.memory = Rollout(s.rollout_steps)

    @property
    def settings(self) -> PolicyGradientSettings:
        """The settings this agent was made with."""
        return self._settings

    def plan(self, steps: int) -> None:
        """Take the length of the run that schedules end with, in user-steps."""
        self._settings = self._settings.model_copy(update={"planned_steps": steps})

    # Deciding.

    def distribution(self, observation: Observation) -> Softmax:
        """Return the policy's distribution over slates."""
        with torch.no_grad():
            return self.policy(observation)

    def policy(self, observation: Observation) -> Softmax:
        """Return the same, to be differentiated."""
        return Softmax(self.actor.network(observation)[0], observation.mask, self.slate_size)

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - it draws to explore
        """Return the items of highest logit, which is the likeliest slate."""
        distribution = self.distribution(observation)
        return top_k(distribution.logits, observation.mask, self.slate_size)

    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the `probability` of every candidate in the first slot, [B, C]."""
        return {"probability": self.distribution(observation).first()}

    def values(self, observation: Observation) -> Tensor:
        """Return the value of what lies ahead of every user under the policy, float64 [B], in units of reward.

        The critic is a network of the same kind; it says this of showing nothing (of no click).
        """
        nothing = torch.full((len(observation), 1), -1, device=observation.user.device)
        return self.critic.predict_at(observation, nothing).squeeze(1).double()

    # Learning.

    def observe(self, interactions: Interactions) -> None:
        """Remember one vector step."""
        self.memory.add(interactions)
        self.steps += len(interactions)

    def learn_scale(self, observation: Observation) -> None:
        """Take the features of a batch into the statistics that standardise the input of both networks."""
        for network in (self.actor.network, self.critic.network):
            network.learn_scale(observation)

    def fit_values(self, observation: Observation, targets: Tensor, epochs: int, minibatches: int, seen: int) -> float:
        """Fit the values to returns [B]; return the mean squared error in units of the first ones' mean square.

        seen: decisions that the batch was made of, all counted in `steps`.
        """
        nothing = torch.full((len(observation), 1), -1, device=observation.user.device)
        lessons = observation, nothing, targets.unsqueeze(1), torch.ones_like(targets).unsqueeze(1)
        loss = self.critic.fit(*lessons, epochs, minibatches, self._settings.rate_at(self.steps - seen), self.generator)
        check_loss(self, loss)
        return loss

    def descend(self, rows: int, epochs: int, minibatches: int, seen: int, loss: Loss) -> dict[str, float]:
        """Take passes of minibatch steps of the policy down a loss; return its mean `loss`, `entropy`, `learning_rate`.

        rows: how many the loss is of.  seen: as in `fit_values`.  Raises InputError where the loss is not finite.
        """
        total, begun, rate = torch.zeros(2, dtype=torch.float64), self.steps - seen, 0.0
        for epoch in range(epochs):
            rate = self._settings.rate_at(begun + seen * epoch / epochs)
            for part in torch.randperm(rows, generator=self.generator, device=self.device).chunk(minibatches):
                value, entropy = loss(part)
                check_loss(self, float(value.detach()))
                self.actor.step(value, rate)
                total += torch.tensor([float(value.detach()), float(entropy.detach().mean())]) * len(part)
        mean = total / (rows * epochs)
        return {"loss": float(mean[0]), "entropy": float(mean[1]), "learning_rate": rate * self._settings.learning_rate}

    # Saving.

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        parts = {"actor": self.actor.tensors(), "critic": self.critic.tensors()}
        return {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for name, network in (("actor", self.actor), ("critic", self.critic)):
            network.load_tensors({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(name)})
