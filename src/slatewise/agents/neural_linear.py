"""Neural-linear: Thompson sampling with a Bayesian linear regression on the last layer of a network.

Source: Riquelme et al. 2018, arXiv 1802.09127, section 3 (neural linear). Every so often the network is fitted to what
is remembered, and the regressions are computed anew on its last layer; between, they learn from every reward at once.
Deviation: the noise of the reward is a setting, not a posterior of its own.
"""

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from slatewise.agents.bandit import EnsembleBandit
from slatewise.agents.base import AgentSettings
from slatewise.agents.replay import Window
from slatewise.interactions import Interactions, Observation, Spec
from slatewise.linear import with_one
from slatewise.linear_models import DisjointModel, Rows, SharedModel
from slatewise.networks import Normaliser, perceptron

FIRST = 100  # shown items before the network is fitted for the first time


class Settings(AgentSettings):
    """Settings of neural-linear."""

    hidden: int = Field(64, ge=1, description="width of the two hidden layers")
    embedding: int = Field(20, ge=1, description="width of the last layer, on which the regressions stand")
    learning_rate: float = Field(3e-3, gt=0, description="of the network")
    fit_every: int = Field(10_000, ge=1, description="shown items between fits of the network, fewer at the beginning")
    gradient_steps: int = Field(40, ge=1, description="gradient steps of a fit")
    batch_size: int = Field(256, ge=1, description="shown items of a gradient step")
    memory: int = Field(100_000, ge=1, description="shown items that are remembered")
    penalty: float = Field(1.0, gt=0, description="λ of the regressions")
    noise_scale: float = Field(0.5, gt=0, description="standard deviation of the reward's noise")
    draws: int = Field(100, ge=1, le=100_000, description="draws from the posterior; propensities are shares of them")


class NeuralLinear(EnsembleBandit):
    """A network finds the features, Bayesian linear regressions on them know what is uncertain.

    Where items have features the network sees user and item, and one regression serves all; else it sees the user, and
    every item has a regression of its own.
    """

    name = "neural-linear"
    summary_text = "contextual bandit: Thompson sampling with linear regressions on the last layer of a network"
    Settings = Settings
    changeable = ("noise_scale", "draws")

    @property
    def members(self) -> int:
        """The number of draws."""
        return cast(Settings, self.settings).draws

    def begin(self) -> None:
        """Make network, regressions and memory."""
        s = cast(Settings, self.settings)
        self.shared = self.spec.item_features > 0
        inputs = len(self.spec.user) + self.spec.item_features
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            self.network = nn.Sequential(Normaliser(inputs), *perceptron(inputs, s.hidden, s.hidden, s.embedding))
        self.network.to(self.device)
        self.memory = Window(s.memory)
        self.model = self._regressions()
        self._since = 0  # shown items since the network was fitted

    def _regressions(self) -> SharedModel | DisjointModel:
        s = cast(Settings, self.settings)
        names = tuple(f"h{i}" for i in range(s.embedding))
        sizes = self.spec.candidates, self.spec.slate_size
        if self.shared:
            return SharedModel(Spec((), (), names, (), *sizes), s.penalty, self.device)
        return DisjointModel(Spec(names, (), (), (), *sizes), s.penalty, self.device)

    @torch.no_grad()
    def _seen(self, observation: Observation) -> Observation:
        """Return the observation with the last layer in the place of features."""
        observation.check_users(len(self.spec.user))
        ids, user = observation.item_ids, observation.user
        if not self.shared:
            return Observation(self.network(user), ids, user.new_zeros(*ids.shape, 0))
        everything = torch.arange(ids.shape[1], device=self.device).expand(ids.shape)
        return Observation(user[:, :0], ids, self.network(self._inputs(observation, everything)))

    def _inputs(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return what the network sees of candidates at positions [B, P], float32 [B, P, inputs]."""
        user = observation.user.unsqueeze(1).expand(-1, positions.shape[1], -1)
        return torch.cat([user, observation.features(positions)], 2) if self.shared else user

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of every candidate's expected reward, float64 [B, C] each."""
        mean, deviation = self.model.bounds(self._seen(observation))
        return mean, deviation * cast(Settings, self.settings).noise_scale

    def opinions(self, observation: Observation) -> Tensor:
        """Return the expected reward of every candidate under each draw, [B, S, C]."""
        scale = cast(Settings, self.settings).noise_scale
        return self.model.draws(self._seen(observation), self.members, self.noise(), scale)

    def learn(self, interactions: Interactions, used: Tensor) -> None:
        """Remember, and let the regressions learn."""
        observation, slate = interactions.observation, interactions.decision.slate
        rows = {
            "inputs": self._inputs(observation, slate)[used],
            "item": observation.item_ids.gather(1, slate.clamp(min=0))[used],
            "y": interactions.response.reward[used],
        }
        self.memory.push(rows)
        self._add(rows)
        self._since += len(rows["y"])

    @torch.no_grad()
    def _add(self, rows: Rows) -> None:
        if len(rows["y"]):
            self.model.add({"item": rows["item"], "x": with_one(self.network(rows["inputs"])), "y": rows["y"]})

    def update(self) -> dict[str, float] | None:
        """Fit the network where it is time; return `interactions`, and the `loss` of a fit (mean squared error)."""
        metrics = super().update()
        remembered = len(self.memory.rows.get("y", ()))
        due = min(cast(Settings, self.settings).fit_every, max(FIRST, remembered // 3))  # a third of it is new
        if metrics is None or self._since < due:
            return metrics
        self._since = 0
        self.version += 1
        return metrics | {"loss": self._fit()}

    def _fit(self) -> float:
        """Fit network and heads to what is remembered, then compute the regressions anew."""
        s, rows = cast(Settings, self.settings), self.memory.rows
        at = (
            torch.zeros_like(rows["item"]) if isinstance(self.model, SharedModel) else self.model.items.of(rows["item"])
        )
        cast(Normaliser, self.network[0]).update(rows["inputs"][-s.fit_every :])
        heads = nn.Parameter(self.model.ridges.weights.float())
        optimizer = torch.optim.Adam([*self.network.parameters(), heads], s.learning_rate, fused=True)
        total = 0.0
        for _ in range(s.gradient_steps):
            some = torch.randint(len(at), (s.batch_size,), generator=self.generator, device=self.device)
            embedded = self.network(rows["inputs"][some])
            head = heads[at[some]]
            predicted = head[:, 0] + (embedded * head[:, 1:]).sum(1)
            loss = (predicted - rows["y"][some].float()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        self.model = self._regressions()
        self._add(rows)
        return total / s.gradient_steps

    def learned(self) -> dict[str, Tensor]:
        """Return network, regressions and memory."""
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        tensors |= {f"memory.{key}": value for key, value in self.memory.rows.items()}
        return tensors | self.model.tensors() | {"since": torch.tensor(self._since)}

    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `learned` gave."""
        parts = {prefix: _named(tensors, prefix) for prefix in ("network.", "memory.")}
        self.network.load_state_dict(parts["network."])
        self.memory.rows = parts["memory."]
        self.model.load(tensors)
        self._since = int(tensors["since"])


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
