"""Deep Q-learning over whole slates: every slate is an action with a value of its own.

Sources: Mnih et al. 2015, doi 10.1038/nature14236; its parts by van Hasselt et al. 2016, arXiv 1509.06461 (double),
Schaul et al. 2016, arXiv 1511.05952 (prioritised replay), Wang et al. 2016, arXiv 1511.06581 (a value of the state, and
what an action adds). Slates as actions are what Ie et al. 2019, arXiv 1905.12767, compare SlateQ with. It needs no
choice model, and every slate there is must be valued at every decision: for few candidates and short slates.
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.long_term import LongTermAgent, LongTermSettings
from slatewise.choice import Multinomial
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation
from slatewise.networks import Regression
from slatewise.whole_slates import SlateTower, all_slates, available, best_slates, by_share, check_slate_count


class Settings(LongTermSettings):
    """Settings of deep-q."""

    ordered: bool = Field(
        False, description="slates of the same items in another order are other actions: for users who read in order"
    )


class DeepQ(LongTermAgent):
    """Long-term value of whole slates, without a choice model."""

    name = "deep-q"
    summary_text = "long-term value of whole slates, each an action of its own: for few candidates, no choice model"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings and make the network. Raises InputError where there are too many slates, or order matters.

        Order matters to users whose choice model says so; without one nothing is asked.
        """
        s, slots = cast(Settings, settings), self.spec.slate_size
        if self.choice is not None and not isinstance(self.choice, Multinomial) and slots > 1 and not s.ordered:
            raise InputError(
                f"deep-q: ordered=false, and where users choose by {self.choice.name!r} it matters in which order a "
                "slate's items stand: set ordered=true"
            )
        check_slate_count(self.spec.candidates, slots, s.ordered)
        super().build(settings)

    def make_regression(self, settings: Any) -> Regression[SlateTower]:
        """Return the network that values slates, and its optimiser."""
        s = cast(Settings, settings)
        return Regression(
            lambda: SlateTower(self.spec, s.hidden, s.embedding, s.encoder, s.ordered),
            s.learning_rate,
            self.seed,
            self.device,
        )

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return cast(Settings, self._settings)

    def slates(self, observation: Observation) -> Tensor:
        """Return all slates of as many of the candidates as there are slots, int64 [S, K], padded ones too.

        Raises InputError where there are too many.
        """
        candidates = observation.item_ids.shape[1]
        return all_slates(candidates, min(self.slate_size, candidates), self.settings.ordered, self.device)

    def values(self, observation: Observation) -> Tensor:
        """Return Q of every slate of `slates`, [B, S], in units of reward; −∞ where a candidate may not be shown."""
        slates = self.slates(observation)
        values = torch.cat([part for _, part in self.regression.network.of_all(observation, slates)])
        return self.regression.in_units(values).masked_fill(~available(observation.mask, slates), -torch.inf)

    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the long-term `value` of the best slate with each candidate, [B, C]; −∞ where there is none."""
        slates, values = self.slates(observation), self.values(observation)
        value = torch.full(observation.item_ids.shape, -torch.inf, device=values.device)
        for items in slates.unbind(1):
            value = value.scatter_reduce(1, items.expand(len(value), -1), values, "amax")
        return {"value": value}

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the slate of highest value; without `ordered`, first the item that adds most to it."""
        slate = self.best(observation, self.regression)[0]
        if self.settings.ordered or self.slate_size == 1:
            return slate
        return by_share(self.regression.network, observation, slate)

    def best(self, observation: Observation, network: Regression[SlateTower]) -> tuple[Tensor, Tensor]:
        """Return the slate of highest value by a network, [B, K], with holes where candidates lack, and its value."""
        slate, value = best_slates(network.network, observation, self.slate_size, self.settings.ordered)
        return slate, network.in_units(value)

    def same(self, slate: Tensor, other: Tensor) -> Tensor:
        """Return where two slates are the same action, [...] of [..., K]: without `ordered`, the same items."""
        if self.settings.ordered:
            return super().same(slate, other)
        return super().same(slate.sort(-1).values, other.sort(-1).values)

    def lessons(self, rollout: Interactions) -> tuple[Tensor, Tensor, Tensor]:
        """Return every slate that was shown, with its return."""
        self.renew_target()
        targets = self.returns(rollout).unsqueeze(1)
        everything = torch.ones_like(targets, dtype=torch.float32)
        slate = rollout.decision.slate
        return slate, targets, self.weighed(rollout.observation, slate, targets, everything)
