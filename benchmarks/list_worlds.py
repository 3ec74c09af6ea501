"""Lists of items that attract everybody alike: read from the top to the first click, or by position.

The worlds of cascading bandits (Kveton et al. 2015, arXiv 1502.02763) and of position-based ones (Lagrée et al. 2016,
arXiv 1606.02448), for agents that count and know nothing of the user. A round is a user, as in all bandit worlds.
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from slatewise.environments.bandit import BanditSettings, BanditWorld
from slatewise.environments.base import Reference, References, State, response_of
from slatewise.interactions import Response, Spec
from slatewise.noise import Noise

EXAMINATION = (1.0, 0.6, 0.4, 0.2)
LOWEST, HIGHEST = 0.02, 0.4  # attraction of the least and the most attractive item, the others evenly between


class Settings(BanditSettings):
    """Settings of both worlds."""

    candidates: int = Field(20, ge=4, le=1000, description="items, all of them on offer")
    slate_size: int = Field(4, ge=1, le=len(EXAMINATION), description="items of a list")


class CascadeLists(BanditWorld):
    """The user reads down to the first item that attracts, and clicks it: what is below was never seen."""

    name = "cascade-lists"
    version = 1
    summary_text = "lists that are read from the top to the first click"
    Settings = Settings

    def build_problem(self) -> Spec:
        """Say how attractive each item is: in a shuffled order, always the same."""
        s = self.settings
        order = torch.randperm(s.candidates, generator=torch.Generator().manual_seed(0))
        self.attraction = torch.linspace(LOWEST, HIGHEST, s.candidates, dtype=torch.float64)[order]
        return Spec((), (), (), ("click",), s.candidates, s.slate_size, s.history)

    def begin(self, noise: Noise) -> State:
        """Nothing is known of a user."""
        return {"context": noise.uniform(1)[:, :0]}

    def means(self, context: Tensor, items: Tensor) -> Tensor:  # noqa: ARG002 - all users are alike
        """Return the attraction of items."""
        return self.attraction[items]

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Click; everybody is finished."""
        clicked = self.clicks(noise.uniform(slate.shape[1]) < self._shown(slate), noise)
        return response_of(clicked, clicked.float().unsqueeze(2), clicked.double()), torch.ones_like(clicked[:, 0])

    def clicks(self, attracted: Tensor, noise: Noise) -> Tensor:  # noqa: ARG002
        """Return the first slot that attracts, bool [B, K]."""
        return attracted & (attracted.cumsum(1) == 1)

    def expectation(self, slate: Tensor) -> Tensor:
        """Return the probability that something attracts, float64 [B]."""
        return 1 - (1 - self._shown(slate)).prod(1)

    def best(self) -> Tensor:
        """Return the expected reward of the best list."""
        return self.of_best().expand(self.users)

    def of_best(self) -> Tensor:
        """Return the same, once."""
        return 1 - (1 - self.attraction.topk(self.settings.slate_size).values).prod()

    def of_random(self) -> float:
        """Return the expected reward of a random list: 1 less the mean product of so many (1 − attraction).

        The mean over all subsets is an elementary symmetric polynomial over their number.
        """
        slots = self.settings.slate_size
        sums = [1.0] + [0.0] * slots
        for factor in (1 - self.attraction).tolist():
            sums = [1.0, *(sums[k] + factor * sums[k - 1] for k in range(1, slots + 1))]
        return 1 - sums[slots] / math.comb(self.settings.candidates, slots)

    @property
    def references(self) -> References:
        """Random and the best list, exactly."""
        return References({"random": Reference(self.of_random(), 0.0)}, Reference(float(self.of_best()), 0.0, "exact"))


class PositionLists(CascadeLists):
    """The user looks at every position with a probability of its own, and clicks whatever attracts there."""

    name = "position-lists"
    summary_text = "lists whose positions are looked at with known probabilities"

    def looked(self) -> Tensor:
        """Return the probability that each position is looked at, [K]."""
        return torch.tensor(EXAMINATION, dtype=torch.float64)[: self.settings.slate_size]

    def clicks(self, attracted: Tensor, noise: Noise) -> Tensor:
        """Return all slots that are looked at and attract, bool [B, K]."""
        return attracted & (noise.uniform(attracted.shape[1]) < self.looked())

    def expectation(self, slate: Tensor) -> Tensor:
        """Return the expected number of clicks, float64 [B]."""
        return self._shown(slate) @ self.looked()

    def of_best(self) -> Tensor:
        """Return the expected clicks of the best list: the most attractive first."""
        return self.attraction.topk(self.settings.slate_size).values @ self.looked()

    def of_random(self) -> float:
        """Return the expected clicks of a random list."""
        return float(self.attraction.mean() * self.looked().sum())
