"""Logistic Thompson sampling: a Bayesian logistic regression of rewards of 0 and 1, its posterior taken as normal.

Source: Chapelle & Li 2011, "An empirical evaluation of Thompson sampling", Algorithm 3: after each batch the posterior
is replaced by a normal one at its mode (Laplace), the prior of the next batch. Deviation: the whole covariance is kept,
not its diagonal alone.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.bandit import EnsembleBandit, check_binary
from slatewise.agents.bandit_sums import kind_of_model
from slatewise.agents.base import AgentSettings
from slatewise.interactions import Interactions, Observation
from slatewise.linear_models import DisjointModel, SharedModel
from slatewise.ridges import Ridges

NEWTON_STEPS = 50


class LaplaceRidges(Ridges):
    """Logistic regressions with normal posteriors, kept as a ridge regression that has the same mean and covariance."""

    def add(self, rows: Tensor, features: Tensor, targets: Tensor, sign: float = 1.0) -> None:
        """Take features [n, d] and targets [n], 0 or 1, in; nothing can be taken out again."""
        assert sign > 0
        touched, at = rows.unique(return_inverse=True)
        mean = self.weights[touched]
        precision = self.outer[touched] + self.penalty * torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        mode, precision = laplace(mean, precision, at, features, targets)
        self.outer[touched] = precision - self.penalty * torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        self.moment[touched] = (precision @ mode.unsqueeze(2)).squeeze(2)
        self.touch(touched)


def laplace(mean: Tensor, precision: Tensor, at: Tensor, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return mode [R, d] and precision [R, d, d] of the posteriors of logistic regressions.

    mean, precision: of the normal priors.  at: int64 [n], which regression each row of features [n, d] and
    targets [n] belongs to. Newton's method, damped by its decrement δ as 1 / (1 + δ), which is 0 at the end.
    """
    mode, curvature = mean.clone(), precision
    for _ in range(NEWTON_STEPS):
        chance = torch.sigmoid((features * mode[at]).sum(1))
        pull = (precision @ (mode - mean).unsqueeze(2)).squeeze(2)
        gradient = pull.index_add(0, at, features * (chance - targets).unsqueeze(1))
        weighted = features * (chance * (1 - chance)).unsqueeze(1)
        curvature = precision.index_add(0, at, weighted.unsqueeze(2) * features.unsqueeze(1))
        step = torch.cholesky_solve(gradient.unsqueeze(2), torch.linalg.cholesky(curvature)).squeeze(2)
        decrement = (gradient * step).sum(1, keepdim=True).clamp(min=0).sqrt()
        mode = mode - step / (1 + decrement)
        if float(decrement.max()) < 1e-9:
            break
    return mode, curvature


class Settings(AgentSettings):
    """Settings of logistic Thompson sampling."""

    model: Literal["auto", "shared", "disjoint"] = Field(
        "auto", description="one model for all items or one an item; auto: shared where items have features"
    )
    penalty: float = Field(1.0, gt=0, description="precision of the prior of every weight")
    forgetting: float = Field(0.0, ge=0, lt=1, description="share of what is known that fades with each interaction")
    posterior_scale: float = Field(1.0, gt=0, description="of the posterior's deviation; below 1 explores less")
    draws: int = Field(100, ge=1, le=100_000, description="draws from the posterior; propensities are shares of them")


class LogisticThompson(EnsembleBandit):
    """Thompson sampling with a logistic regression of rewards of 0 and 1."""

    name = "logistic-thompson"
    summary_text = "contextual bandit for rewards of 0 and 1: Thompson sampling with a logistic regression"
    Settings = Settings
    changeable = ("posterior_scale", "draws")

    @property
    def members(self) -> int:
        """The number of draws."""
        return cast(Settings, self.settings).draws

    def begin(self) -> None:
        """Make the model."""
        s = cast(Settings, self.settings)
        kind = SharedModel if kind_of_model(self, s.model) == "shared" else DisjointModel
        self.model = kind(self.spec, s.penalty, self.device)
        self.model.ridges = LaplaceRidges(self.model.ridges.moment.shape[1], s.penalty, self.device)

    def check_rewards(self, rewards: Tensor) -> None:
        """Raise InputError for rewards other than 0 and 1."""
        check_binary(self.name, rewards)

    def bounds(self, observation: Observation) -> tuple[Tensor, Tensor | None]:
        """Return the probability of a reward and about its standard deviation, [B, C] each.

        The mean of σ(N(m, v)) is close to σ(m / √(1 + π v / 8)) (MacKay 1992).
        """
        mean, deviation = self.model.bounds(observation)
        chance = torch.sigmoid(mean / (1 + torch.pi / 8 * deviation.square()).sqrt())
        return chance, chance * (1 - chance) * deviation

    def opinions(self, observation: Observation) -> Tensor:
        """Return the log odds of a reward under each draw, [B, S, C]."""
        return self.model.draws(observation, self.members, self.noise(), cast(Settings, self.settings).posterior_scale)

    def contributions(self, observation: Observation) -> tuple[tuple[str, ...], Tensor | None]:
        """Return names of features and what each adds to the log odds, [B, C, features]."""
        return self.model.names, self.model.contributions(observation)

    def learn(self, interactions: Interactions, used: Tensor) -> None:
        """Replace the posterior by a normal one at its new mode."""
        forgetting = cast(Settings, self.settings).forgetting
        if forgetting:
            self.model.scale((1 - forgetting) ** len(interactions))
        slate, reward = interactions.decision.slate, interactions.response.reward
        rows = self.model.extract(interactions.observation, slate, used, reward)
        if len(rows["y"]):
            self.model.add(rows)

    def learned(self) -> dict[str, Tensor]:
        """Return the model."""
        return self.model.tensors()

    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `learned` gave."""
        self.model.load(tensors)
