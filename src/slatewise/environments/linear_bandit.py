"""Linear and logistic bandits: contexts on a sphere, and for every item a direction that it likes."""

from pydantic import Field
from torch import Tensor

from slatewise.environments.bandit import BanditSettings, BanditWorld, directions
from slatewise.environments.base import State
from slatewise.interactions import Spec
from slatewise.noise import Noise


class Settings(BanditSettings):
    """Settings of linear and logistic bandits."""

    features: int = Field(20, ge=1, le=1000, description="features of a context")
    problem: int = Field(0, ge=0, description="which items: worlds of one problem differ by their contexts alone")


class LinearBanditWorld(BanditWorld):
    """Rewards of 0 and 1 with mean ½ + ½ ⟨x, θ⟩: x uniform on the unit sphere, θ a unit vector for every item."""

    name = "linear-bandit"
    version = 1
    summary_text = "contextual bandit whose mean rewards are linear in the context, a model an item"
    Settings = Settings

    def build_problem(self) -> Spec:
        """Draw the items' directions."""
        s = self.settings
        self.theta = directions(s.candidates, s.features, s.problem).to(self.device)
        names = tuple(f"x{i}" for i in range(s.features))
        return Spec(names, (), (), ("reward",), s.candidates, s.slate_size, s.history)

    def begin(self, noise: Noise) -> State:
        """Draw contexts."""
        drawn = noise.normal(self.settings.features)
        return {"context": drawn / drawn.norm(dim=1, keepdim=True)}

    def means(self, context: Tensor, items: Tensor) -> Tensor:
        """Return ½ + ½ ⟨x, θ⟩."""
        return 0.5 + 0.5 * (context.double() @ self.theta.T).gather(1, items)


class LogisticBanditWorld(LinearBanditWorld):
    """Rewards of 0 and 1 with log odds 8 ⟨x, θ⟩ − 2: contexts and directions as in the linear bandit."""

    name = "logistic-bandit"
    summary_text = "contextual bandit whose log odds are linear in the context, a model an item"

    def means(self, context: Tensor, items: Tensor) -> Tensor:
        """Return σ(8 ⟨x, θ⟩ − 2)."""
        return (8 * (context.double() @ self.theta.T).gather(1, items) - 2).sigmoid()
