"""SlateQ: the long-term value of a slate, decomposed into the values of its items.

Source: Ie et al. 2019, arXiv 1905.12767. Q(s, slate) = Σ P(i | s, slate) Q(s, i), the sum over the items of the
slate **and no click**, which has a value like any other item: without it the future is discounted by the click
rate. Learned from parallel users with λ-returns instead of one-step targets from a replay memory, so there is
neither a target network nor a memory of the past.
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.base import NetworkAgent, NetworkSettings
from slatewise.choice import Cascade, FirstPosition, Multinomial
from slatewise.errors import InputError
from slatewise.interactions import Decision, Interactions, Observation, Response
from slatewise.returns import lambda_returns
from slatewise.slates import best_slate


class Settings(NetworkSettings):
    """Settings of SlateQ."""

    discount: float = Field(1.0, ge=0, le=1, description="γ: what a reward one step later is worth")
    trace: float = Field(0.95, ge=0, le=1, description="λ: how far returns reach before the network's value takes over")


class SlateQ(NetworkAgent):
    """Long-term value of slates under a choice model."""

    name = "slateq"
    summary_text = "long-term value of slates under a choice model, no click valued like an item"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings and make the network. Raises InputError for a choice model without slates."""
        if self.choice is None:
            raise InputError(
                "slateq needs a choice model: pass choice=env.choice; this source has none (env.choice is None) "
                "because its users choose by what is hidden"
            )
        if not isinstance(self.choice, Multinomial | Cascade | FirstPosition):
            raise InputError(
                f"slateq plans for users who take at most one item of a slate, and the choice model "
                f"{self.choice.name!r} is not one it has slates for: pass logit, proportional, exponential-cascade, "
                "proportional-cascade or first-position (slatewise.fitting.fit fits one to a log), or take a bandit "
                "such as linucb, which needs no choice model"
            )
        super().build(settings)

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return cast(Settings, self._settings)

    def values(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return Q of every candidate [B, C] and of no click [B], in units of reward."""
        return self.regression.predict(observation)

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the slate of highest long-term value."""
        return self._best(observation)[0]

    def _best(self, observation: Observation) -> tuple[Tensor, Tensor]:
        assert self.choice is not None  # `build` refused it
        items, no_click = self.values(observation)
        scores = self.choice.scores(observation)
        return best_slate(self.choice, scores, items, no_click, observation.mask, self.slate_size)

    def observe(self, interactions: Interactions) -> None:
        """Remember one vector step. Raises InputError where something that SlateQ needs is missing."""
        if interactions.next_observation is None:
            raise InputError("slateq learns from what comes next, and these interactions have no next_observation")
        if not bool(interactions.response.reward_known.all()):
            raise InputError("slateq needs every reward of a session, and some are missing (reward_known is false)")
        if bool((interactions.response.clicked.sum(1) > 1).any()):
            raise InputError("slateq is for users who take at most one item of a slate, and some clicked several")
        self.memory.add(interactions)
        self.steps += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Learn from a full rollout; return `loss`, `value`, `epsilon`, `learning_rate`, or None before it is full."""
        if not self.memory.full():
            return None
        s = self.settings
        rollout = self.memory.take()
        targets = self._targets(rollout).unsqueeze(1)
        self.regression.network.learn_scale(rollout.observation)
        positions = consumed(rollout.decision, rollout.response).unsqueeze(1)
        rate = s.rate_at(self.steps - len(rollout))
        loss = self.regression.fit(
            rollout.observation,
            positions,
            targets,
            torch.ones_like(targets, dtype=torch.float32),
            s.epochs,
            s.minibatches,
            rate,
            self.generator,
        )
        self.updates += 1
        return {
            "loss": loss,
            "value": float(targets.mean()),
            "epsilon": self.epsilon(),
            "learning_rate": rate * s.learning_rate,
        }

    def _targets(self, rollout: Interactions) -> Tensor:
        """Return λ-returns [T · B] of the rollout, bootstrapped with the value of the best slate.

        A return is followed only while the agent did what it thinks best; at a random slate the value of the best
        one takes its place (Watkins's Q(λ), Sutton & Barto 2018, section 12.10), so exploration does not lower
        the values that it explores.
        """
        assert rollout.next_observation is not None  # `observe` refused it
        steps, s = self.memory.steps, self.settings
        best, value = self._best(rollout.next_observation)
        shown = rollout.decision.slate.view(steps, -1, self.slate_size)
        followed = (best.view(shown.shape)[:-1] == shown[1:]).all(2)
        trace = s.trace * torch.cat([followed, followed.new_ones(1, followed.shape[1])]).double()
        parts = rollout.response.total_reward, value.double(), rollout.terminated, rollout.truncated
        reward, value, terminated, truncated = (part.view(steps, -1) for part in parts)
        return lambda_returns(reward, value, terminated, truncated, s.discount, trace).flatten()


def consumed(decision: Decision, response: Response) -> Tensor:
    """Return the candidate that was consumed, int64 [B]; −1 where nothing was clicked."""
    slot = response.clicked.int().argmax(1, keepdim=True)
    return torch.where(response.clicked.any(1), decision.slate.gather(1, slot).squeeze(1), -1)
