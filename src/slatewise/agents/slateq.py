"""SlateQ: the long-term value of a slate, decomposed into the values of its items.

Source: Ie et al. 2019, arXiv 1905.12767. Q(s, slate) = Σ P(i | s, slate) Q(s, i), the sum over the items of the
slate **and no click**, which has a value like any other item: without it the future is discounted by the click
rate. Learned on-policy from parallel users with λ-returns instead of one-step targets from a replay memory, so
there is neither a target network nor a memory of the past.
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from slatewise.agents.base import Agent, AgentSettings, load_optimizer_tensors, optimizer_tensors
from slatewise.agents.replay import Rollout
from slatewise.choice import FirstPosition, Logit, Proportional
from slatewise.errors import InputError
from slatewise.interactions import Decision, Interactions, Observation, Response
from slatewise.networks import TwoTower
from slatewise.returns import lambda_returns
from slatewise.slates import best_slate


class Settings(AgentSettings):
    """Settings of SlateQ."""

    discount: float = Field(1.0, ge=0, le=1, description="γ: what a reward one step later is worth")
    trace: float = Field(0.95, ge=0, le=1, description="λ: how far returns reach before the network's value takes over")
    rollout_steps: int = Field(32, ge=1, description="steps of all users between updates")
    epochs: int = Field(2, ge=1, description="passes over a rollout")
    minibatches: int = Field(4, ge=1, description="gradient steps a pass")
    learning_rate: float = Field(1.5e-3, gt=0, description="at the start; falls to 0 over the planned steps")
    epsilon_start: float = Field(1.0, ge=0, le=1, description="probability of a random slate at the start")
    epsilon_end: float = Field(0.03, ge=0, le=1, description="probability of a random slate after the fall")
    epsilon_fraction: float = Field(0.15, gt=0, le=1, description="share of the planned steps over which it falls")
    max_gradient_norm: float = Field(10.0, gt=0, description="gradients are scaled down to this norm")
    hidden: int = Field(128, ge=1, description="width of the hidden layers")
    embedding: int = Field(64, ge=1, description="size of the user and item embeddings")


class SlateQ(Agent):
    """Long-term value of slates under a choice model."""

    name = "slateq"
    summary_text = "long-term value of slates under a choice model, no click valued like an item"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings and make the network."""
        self._settings = s = cast(Settings, settings)
        if self.choice is None:
            raise InputError(
                "slateq needs a choice model: pass choice=env.choice; this source has none (env.choice is None) "
                "because its users choose by what is hidden"
            )
        if not isinstance(self.choice, Logit | Proportional | FirstPosition):
            raise InputError(
                f"slateq has no exact slates for the choice model {self.choice.name!r}: "
                "use logit, proportional or first-position"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = TwoTower(self.spec, s.hidden, s.embedding).to(self.device)
        self.scale = torch.zeros((), device=self.device)  # of returns, from the first rollout
        self.optimizer = torch.optim.RAdam(self.network.parameters(), lr=s.learning_rate)
        self.memory = Rollout(s.rollout_steps)

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return self._settings

    def plan(self, steps: int) -> None:
        """Take the length of the run that schedules end with, in user-steps."""
        self._settings = self._settings.model_copy(update={"planned_steps": steps})

    def epsilon(self) -> float:
        """Return the probability of a uniform slate when exploring, at the present step."""
        s = self._settings
        fallen = min(1.0, self.steps / (s.epsilon_fraction * s.planned_steps))
        epsilon = s.epsilon_start + fallen * (s.epsilon_end - s.epsilon_start)
        return 1 - (1 - epsilon) * (1 - s.explore_floor)

    @torch.no_grad()
    def values(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return Q of every candidate [B, C] and of no click [B], in units of reward."""
        items, no_click = self.network(observation)
        scale = torch.where(self.scale > 0, self.scale, 1.0)
        return items * scale, no_click * scale

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
        self.memory.add(interactions)
        self.steps += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Learn from a full rollout; return `loss`, `value`, `epsilon`, `learning_rate`, or None before it is full."""
        if not self.memory.full():
            return None
        s = self._settings
        rollout = self.memory.take()
        self.network.learn_scale(rollout.observation)
        targets = self._targets(rollout)
        if float(self.scale) == 0:
            self.scale = targets.square().mean().sqrt().clamp(min=1e-6).float()
        targets = (targets / self.scale).float()
        positions = consumed(rollout.decision, rollout.response)
        rate = s.learning_rate * max(0.0, 1 - self.steps / s.planned_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = [self._fit(rollout.observation, positions, targets) for _ in range(s.epochs)]
        self.updates += 1
        return {
            "loss": sum(losses) / len(losses),
            "value": float(targets.mean() * self.scale),
            "epsilon": self.epsilon(),
            "learning_rate": rate,
        }

    def _targets(self, rollout: Interactions) -> Tensor:
        """Return λ-returns [T · B] of the rollout, bootstrapped with the value of the best slate."""
        assert rollout.next_observation is not None  # `observe` refused it
        next_value = self._best(rollout.next_observation)[1].double()
        parts = rollout.response.total_reward, next_value, rollout.terminated, rollout.truncated
        reward, next_value, terminated, truncated = (x.view(self.memory.steps, -1) for x in parts)
        s = self._settings
        return lambda_returns(reward, next_value, terminated, truncated, s.discount, s.trace).flatten()

    def _fit(self, observation: Observation, positions: Tensor, targets: Tensor) -> float:
        """Take one pass of minibatch steps on the squared error; return the mean loss."""
        order = torch.randperm(len(targets), generator=self.generator, device=self.device)
        total = 0.0
        for rows in order.chunk(self._settings.minibatches):
            predicted = self.network.at(observation[rows], positions[rows])
            loss = (predicted - targets[rows]).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self._settings.max_gradient_norm)
            self.optimizer.step()
            total += float(loss.detach()) * len(rows) / len(targets)
        return total

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, scale and the optimizer's state."""
        weights = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        return weights | {"scale": self.scale} | optimizer_tensors(self.optimizer)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back weights, scale and the optimizer's state."""
        prefix = "network."
        self.network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self.scale = tensors["scale"]
        load_optimizer_tensors(self.optimizer, tensors)


def consumed(decision: Decision, response: Response) -> Tensor:
    """Return the candidate that was consumed, int64 [B]; −1 where nothing was clicked."""
    slot = response.clicked.int().argmax(1, keepdim=True)
    return torch.where(response.clicked.any(1), decision.slate.gather(1, slot).squeeze(1), -1)
