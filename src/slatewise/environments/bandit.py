"""What bandit worlds share: a session is one decision, and the expected reward of every candidate is known.

The users of a bandit world are its rounds: each has a context of its own, decides once and is gone. What the items are
worth is fixed by the setting `problem` and not by the seed, so that worlds of other seeds ask the same.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from slatewise.environments.base import (
    Environment,
    Reference,
    References,
    SlateRule,
    State,
    WorldSettings,
    response_of,
)
from slatewise.interactions import Observation, Response, Spec
from slatewise.noise import Noise, SessionNoise
from slatewise.slates import top_k


class BanditSettings(WorldSettings):
    """Settings of bandit worlds."""

    slate_size: int = Field(1, ge=1, le=100, description="items shown at a time; each earns for itself")


class BanditWorld(Environment, ABC):
    """Contexts that come and go, and items whose expected rewards depend on them."""

    @property
    def settings(self) -> Any:
        """The settings this world was made with."""
        return self._settings

    def build(self, settings: Any) -> None:
        """Take the settings, and make what the rewards depend on."""
        self._settings = settings
        self.spec = self.build_problem()

    @abstractmethod
    def build_problem(self) -> Spec:
        """Make what the rewards depend on; return the spec."""

    @abstractmethod
    def means(self, context: Tensor, items: Tensor) -> Tensor:
        """Return the expected reward of items [n, C] in contexts [n, U], float64 [n, C]."""

    def rewards(self, means: Tensor, noise: Noise) -> Tensor:
        """Return rewards of shown items, [B, K]: 0 or 1, with one uniform a user, so that better is never worse."""
        return (noise.uniform(1) < means).double()

    def sample_candidates(self, noise: Noise) -> State:
        """Return all items, for everybody."""
        rows = len(noise.uniform(1))
        return {"item": torch.arange(self._settings.candidates, device=self.device).expand(rows, -1).clone()}

    def observe(self) -> Observation:
        """Show contexts and items."""
        ids = self.candidates["item"]
        return Observation(self.state["context"].clone(), ids, self.state["context"].new_zeros(*ids.shape, 0))

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Reward every shown item; everybody is finished."""
        reward = self.rewards(self._shown(slate), noise)
        return response_of(reward > 0, reward.float().unsqueeze(2), reward), torch.ones_like(
            slate[:, 0], dtype=torch.bool
        )

    def _shown(self, slate: Tensor) -> Tensor:
        return self.means(self.state["context"], self.candidates["item"].gather(1, slate))

    def expectation(self, slate: Tensor) -> Tensor:
        """Return the expected reward of a slate, the sum of its items', float64 [B]."""
        return self._shown(slate).sum(1)

    def best(self) -> Tensor:
        """Return the highest expected reward that can be had now, float64 [B]: regret is measured from it."""
        means = self.means(self.state["context"], self.candidates["item"])
        return means.topk(self._settings.slate_size, 1).values.sum(1)

    @property
    def rules(self) -> dict[str, SlateRule]:
        """`optimal` knows what items are worth, and shows the best."""
        return {"optimal": lambda o, k: top_k(self.means(o.user, o.item_ids.clamp(min=0)), o.mask, k)}

    @property
    def references(self) -> References:
        """Random and the optimum, averaged over contexts of their own."""
        return self._references

    def contexts(self) -> int:
        """Return over how many contexts of their own references without a closed form are averaged."""
        return min(200_000, 2_000_000 // self._settings.candidates)

    @cached_property
    def _references(self) -> References:
        random, best = list[Tensor](), list[Tensor]()
        slots = self._settings.slate_size
        for part in torch.arange(self.contexts()).split(10_000):
            noise = SessionNoise(0, part, torch.full((1,), -1))
            context, items = self.begin(noise)["context"], self.sample_candidates(noise)["item"]
            means = self.means(context, items)
            best.append(means.topk(slots, 1).values.sum(1))
            random.append(means.mean(1) * slots if slots < means.shape[1] else best[-1])  # all are shown either way
        return References({"random": _mean(random, "rule")}, _mean(best, "exact"))


def _mean(parts: list[Tensor], kind: Any) -> Reference:
    values = torch.cat(parts)
    return Reference(float(values.mean()), float(values.std()) / len(values) ** 0.5, kind)


def directions(rows: int, columns: int, seed: int) -> Tensor:
    """Return unit vectors in uniform directions, float64 [rows, columns]."""
    drawn = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)
