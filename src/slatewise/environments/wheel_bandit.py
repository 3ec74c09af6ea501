"""The wheel bandit: a safe item, and four that pay a fortune on the rim, each in its quarter.

Source: Riquelme et al. 2018, arXiv 1802.09127, section 5.4. The wider the hub (δ), the rarer the fortune.
"""

import torch
from pydantic import Field
from torch import Tensor

from slatewise.environments.bandit import BanditSettings, BanditWorld
from slatewise.environments.base import Reference, References, State
from slatewise.interactions import Spec
from slatewise.noise import Noise

SAFE, OTHER, FORTUNE, DEVIATION = 1.2, 1.0, 50.0, 0.01


class Settings(BanditSettings):
    """Settings of the wheel bandit."""

    candidates: int = Field(5, ge=5, le=5, description="the safe item and the four of the quarters")
    slate_size: int = Field(1, ge=1, le=5, description="items shown at a time; each earns for itself")
    delta: float = Field(0.5, gt=0, lt=1, description="radius of the hub, where no item pays a fortune")


class WheelBandit(BanditWorld):
    """Contexts are uniform in the unit disk. Item 0 pays 1.2; item q pays 50 in its quarter outside the hub, else 1."""

    name = "wheel-bandit"
    version = 1
    summary_text = "contextual bandit that needs exploration: fortunes in the quarters of a wheel's rim"
    Settings = Settings

    def build_problem(self) -> Spec:
        """Name what is seen."""
        s = self.settings
        return Spec(("x", "y"), (), (), ("reward",), s.candidates, s.slate_size, s.history)

    def begin(self, noise: Noise) -> State:
        """Draw points of the disk."""
        drawn = noise.uniform(2)
        radius, angle = drawn[:, 0].sqrt(), 2 * torch.pi * drawn[:, 1]
        return {"context": torch.stack([radius * angle.cos(), radius * angle.sin()], 1)}

    def means(self, context: Tensor, items: Tensor) -> Tensor:
        """Return the mean rewards: quarters are counted from the positive ones, by the signs of x and y."""
        quarter = 1 + 2 * (context[:, 0] < 0).long() + (context[:, 1] < 0).long()
        rim = context.double().norm(dim=1) > self.settings.delta
        paying = torch.where(rim, quarter, -1).unsqueeze(1)
        means = OTHER + (SAFE - OTHER) * (items == 0).double()
        return means.masked_fill(items == paying, FORTUNE)

    def rewards(self, means: Tensor, noise: Noise) -> Tensor:
        """Return rewards of shown items: normal, with a standard deviation of 0.01."""
        return means + DEVIATION * noise.normal(1).double()

    @property
    def references(self) -> References:
        """Random and the optimum, exactly: a share δ² of the disk is the hub."""
        hub, slots = self.settings.delta**2, self.settings.slate_size
        inside, outside = [SAFE, *[OTHER] * 4], [FORTUNE, SAFE, *[OTHER] * 3]
        random = slots * (hub * sum(inside) + (1 - hub) * sum(outside)) / 5
        best = hub * sum(inside[:slots]) + (1 - hub) * sum(outside[:slots])
        return References({"random": Reference(random, 0.0)}, Reference(best, 0.0, "exact"))
