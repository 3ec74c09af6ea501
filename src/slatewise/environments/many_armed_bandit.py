"""A bandit of many items with features: what is learned about one tells about the others."""

import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.environments.bandit import BanditSettings, BanditWorld, directions
from slatewise.environments.base import State
from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.noise import Noise


class Settings(BanditSettings):
    """Settings of the many-armed bandit."""

    items: int = Field(1000, ge=1, le=100_000, description="items of the catalogue")
    candidates: int = Field(100, ge=1, le=100_000, description="items on offer, drawn anew for every context")
    features: int = Field(5, ge=1, le=100, description="features of a context, and of an item")
    problem: int = Field(0, ge=0, description="which items and tastes")

    @model_validator(mode="after")
    def _enough_items(self) -> "Settings":
        if self.candidates > self.items:
            raise ValueError(f"there are only {self.items} items: set items={self.candidates} or more")
        return self


class ManyArmedBandit(BanditWorld):
    """Rewards of 0 and 1 with log odds 4 xᵀ W f − 2: context x and item f on unit spheres, W a rotation."""

    name = "many-armed-bandit"
    version = 1
    summary_text = "contextual bandit of a thousand items with features"
    Settings = Settings

    def build_problem(self) -> Spec:
        """Draw the items and what contexts like."""
        s = self.settings
        self.catalogue = Catalogue.of(directions(s.items, s.features, s.problem)).to(self.device)
        square = directions(s.features, s.features, s.problem + 1)
        self.taste = self.catalogue.features.double() @ torch.linalg.qr(square).Q.T.to(self.device)
        users, items = (tuple(f"{letter}{i}" for i in range(s.features)) for letter in "xf")
        return Spec(users, items, (), ("reward",), s.candidates, s.slate_size, s.history)

    def begin(self, noise: Noise) -> State:
        """Draw contexts."""
        drawn = noise.normal(self.settings.features)
        return {"context": drawn / drawn.norm(dim=1, keepdim=True)}

    def sample_candidates(self, noise: Noise) -> State:
        """Draw different items for everybody."""
        return {"item": noise.uniform(self.settings.items).topk(self.settings.candidates, 1).indices}

    def observe(self) -> Observation:
        """Show contexts and items."""
        shown = super().observe()
        return Observation(shown.user, shown.item_ids, shown.items, self.catalogue)

    def contexts(self) -> int:
        """Return over how many contexts references are averaged: each draws from all items."""
        return min(20_000, max(1000, 20_000_000 // self.settings.items))

    def means(self, context: Tensor, items: Tensor) -> Tensor:
        """Return σ(4 xᵀ W f − 2)."""
        return (4 * (context.double() @ self.taste.T).gather(1, items) - 2).sigmoid()
