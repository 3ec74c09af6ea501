"""Your own agent in one file: show the items that have earned most on average, and others now and then.

It keeps a sum and a count for every item of the catalogue, nothing else: the whole state is two tensors.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.base import Agent, AgentSettings
from slatewise.interactions import Interactions, Observation
from slatewise.slates import top_k


class MySettings(AgentSettings):
    """Each setting has a type, a default and a line that says what it is: the command line is made from it."""

    epsilon: float = Field(0.1, ge=0, le=1, description="probability of a uniform slate while exploring")
    prior: float = Field(1.0, gt=0, description="imaginary showings that earned nothing, for items shown seldom")


class MyAgent(Agent):
    """The items of highest mean reward, whoever the user is."""

    name = "item-means"
    summary_text = "shows the items that have earned most on average"
    Settings = MySettings

    def build(self, settings: Any) -> None:
        """Take the settings, and begin with no items known."""
        self._settings: MySettings = settings
        self.sums = torch.zeros(0, dtype=torch.float64, device=self.device)
        self.counts = torch.zeros(0, dtype=torch.float64, device=self.device)
        self._new = 0  # interactions since the last update

    @property
    def settings(self) -> MySettings:
        """The settings this agent was made with."""
        return self._settings

    # Deciding. `act` and `propensity` are inherited: they show this slate, or with probability ε a uniform one.

    def epsilon(self) -> float:
        """Return the probability of a uniform slate; whatever explores, `explore_floor` is left."""
        return 1 - (1 - self._settings.epsilon) * (1 - self.explore_floor)

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the candidates of highest mean reward."""
        self._grow(observation.item_ids)
        means = self.sums / (self.counts + self._settings.prior)
        return top_k(means[observation.item_ids.clamp(min=0)], observation.mask, self.slate_size)

    # Learning.

    def observe(self, interactions: Interactions) -> None:
        """Take the rewards of what was shown into the sums; holes and unknown rewards are left out."""
        slate, response = interactions.decision.slate, interactions.response
        used = (slate >= 0) & response.reward_known.unsqueeze(1)
        items = interactions.observation.item_ids.gather(1, slate.clamp(min=0))[used]
        self._grow(items)
        self.sums.index_add_(0, items, response.reward[used])
        self.counts.index_add_(0, items, torch.ones_like(response.reward[used]))
        self.steps += len(interactions)
        self._new += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Return what there is to report: the sums are up to date already."""
        if self._new == 0:
            return None
        self._new = 0
        self.updates += 1
        return {"items": float((self.counts > 0).sum()), "mean_reward": float(self.sums.sum() / self.counts.sum())}

    def _grow(self, items: Tensor) -> None:
        """Make room for items of higher numbers than those seen so far."""
        missing = int(items.max()) + 1 - len(self.sums) if items.numel() else 0
        if missing > 0:
            self.sums = torch.cat([self.sums, self.sums.new_zeros(missing)])
            self.counts = torch.cat([self.counts, self.counts.new_zeros(missing)])

    # Saving. Everything learned, by name; the base class writes and reads the files.

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums and counts."""
        return {"sums": self.sums, "counts": self.counts}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.sums, self.counts = tensors["sums"], tensors["counts"]


if __name__ == "__main__":
    from slatewise.testing import check_agent

    for promise, answer in check_agent(MyAgent).items():
        print(f"{answer}: {promise}")
