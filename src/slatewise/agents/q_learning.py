"""Tabular Q-learning: a number for every action in every state, corrected towards what happened.

Source: Watkins 1989, "Learning from delayed rewards"; Sutton & Barto 2018, section 6.5: Q(s, a) moves a step towards
r + γ max Q(s′, ·), and to r alone where the session terminated. All users share one table and learn together.
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.base import Agent, AgentSettings
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation
from slatewise.noise import mix, pair_keys
from slatewise.slates import top_k

TIE = 1e-9  # the largest difference of values that counts as none


class Settings(AgentSettings):
    """Settings of Q-learning."""

    learning_rate: float = Field(0.5, gt=0, le=1, description="α: how far a value moves towards what happened")
    discount: float = Field(1.0, ge=0, le=1, description="γ: what a reward one step later is worth")
    epsilon: float = Field(0.2, ge=0, le=1, description="probability of a random action when exploring")
    largest: int = Field(1_000_000, ge=1, description="pairs of state and action that the table may hold")


class QLearning(Agent):
    """A table of values for worlds whose states recur: every distinct row of user features is a state.

    An action is an item, known by its id; features of items are not looked at.
    """

    name = "q-learning"
    summary_text = "a table of long-term values, for small worlds whose states recur, such as the maze"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings and make an empty table. Raises InputError for slates, or items described by features."""
        self._settings = cast(Settings, settings)
        if self.spec.slate_size != 1:
            raise InputError(
                f"q-learning chooses one item at a time, and slate_size is {self.spec.slate_size}: set slate_size=1, "
                "or take slateq"
            )
        if self.spec.items:
            raise InputError(
                f"q-learning knows an item by its id, and these candidates have features of the moment "
                f"({', '.join(self.spec.items)}): take an agent with a network, such as slateq or supervised"
            )
        self._keys = torch.zeros(0, dtype=torch.int64, device=self.device)  # ascending
        self._values = torch.zeros(0, dtype=torch.float64, device=self.device)
        self._new: list[Interactions] = []

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return self._settings

    def epsilon(self) -> float:
        """Return the probability of a uniform action when exploring, `explore_floor` included."""
        return 1 - (1 - self._settings.epsilon) * (1 - self.explore_floor)

    def values(self, observation: Observation) -> Tensor:
        """Return Q of every candidate, float64 [B, C], in units of reward; 0 where nothing is known."""
        return self._look_up(pair_keys(observation, observation.item_ids))

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the action of highest value, int64 [B, 1]; among equals the one that a hash of the pair prefers."""
        keys = pair_keys(observation, observation.item_ids)
        preference = (mix(keys) >> 40).double() * 2.0**-23  # from −1 to 1, the same in any order of the candidates
        return top_k(self._look_up(keys) + TIE * preference, observation.mask, 1)

    def observe(self, interactions: Interactions) -> None:
        """Remember what happened. Raises InputError where there is no next observation."""
        if interactions.next_observation is None:
            raise InputError("q-learning learns from what comes next, and these interactions have no next_observation")
        self._new.append(interactions)
        self.steps += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Learn from what is new; return `pairs` known and the mean absolute `error`, or None where nothing is new.

        Pairs that were met several times move towards the mean of their targets; unknown rewards are left out.
        """
        if not self._new:
            return None
        batch, self._new = Interactions.cat(self._new), []
        batch = batch[batch.response.reward_known & (batch.decision.slate[:, 0] >= 0)]
        keys = pair_keys(batch.observation, batch.observation.item_ids.gather(1, batch.decision.slate.clamp(min=0)))
        error = self._targets(batch) - self._look_up(keys).squeeze(1)
        met, index, count = keys.squeeze(1).unique(return_inverse=True, return_counts=True)
        mean = torch.zeros(len(met), dtype=torch.float64, device=self.device).index_add(0, index, error) / count
        self._move(met, self._settings.learning_rate * mean)
        self.updates += 1
        return {"pairs": float(len(self._keys)), "error": float(error.abs().mean()) if len(error) else 0.0}

    def _targets(self, batch: Interactions) -> Tensor:
        """Return r + γ max Q(s′, ·), [B]; truncation does not end the future."""
        assert batch.next_observation is not None  # `observe` refused it
        ahead = self.values(batch.next_observation).masked_fill(~batch.next_observation.mask, -torch.inf).amax(1)
        future = torch.where(batch.terminated, 0.0, self._settings.discount * ahead)
        return batch.response.total_reward + future

    def _look_up(self, keys: Tensor) -> Tensor:
        if not len(self._keys):
            return torch.zeros(keys.shape, dtype=torch.float64, device=self.device)
        at = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return torch.where(self._keys[at] == keys, self._values[at], 0.0)

    def _move(self, keys: Tensor, by: Tensor) -> None:
        """Add to the values of distinct pairs; new ones begin at 0. Raises InputError when the table is full."""
        everything = torch.cat([self._keys, keys]).unique()
        if len(everything) > self._settings.largest:
            raise InputError(
                f"q-learning has met {len(everything):,} pairs of state and action, and largest is "
                f"{self._settings.largest:,}: do states recur here? If not, take an agent with a network (slateq)"
            )
        if len(everything) > len(self._keys):
            self._values = self._look_up(everything)
            self._keys = everything
        self._values = self._values.index_add(0, torch.searchsorted(self._keys, keys), by)

    def tensors(self) -> dict[str, Tensor]:
        """Return the table: hashes of pairs, ascending, and their values."""
        return {"keys": self._keys, "values": self._values}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self._keys, self._values = tensors["keys"], tensors["values"]
