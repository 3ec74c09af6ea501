"""Thompson sampling over types of users: what kind of user is this one?

Users are taken to come from a few types, each with its own rate of clicks for every catalogue feature (topic). The
types are learned from the sessions of all users; within a session the totals that the observation carries say how
probable each type is, and the agent draws one and serves it (Thompson 1933, "On the likelihood that one unknown
probability exceeds another in view of the evidence of two samples"). The setting is that of latent bandits (Maillard &
Mannor 2014, "Latent bandits", ICML), the draw of a type is mTS of Hong et al. 2020, "Latent bandits revisited".
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from slatewise.agents.base import Agent, AgentSettings
from slatewise.drawing import epsilon_slate, first_shown, mix_propensity, uniform_propensity
from slatewise.errors import InputError
from slatewise.interactions import Decision, Interactions, Observation
from slatewise.policies import explored
from slatewise.slates import top_k

STARTS = 20  # random beginnings of the first fit
ROUNDS = 50  # of expectation maximisation a fit
PRIOR = 1.0  # clicks, and shows without, that every rate is drawn to


class Settings(AgentSettings):
    """Settings of Thompson sampling over types."""

    types: int = Field(4, ge=1, le=100, description="types of users to tell apart; more than there are do no harm")
    sessions: int = Field(10_000, ge=10, description="newest sessions that the types are learned from")
    first_sessions: int = Field(100, ge=10, description="random sessions before the first types")


class TypeThompson(Agent):
    """Learns the types of users across sessions, and which type this user is within one."""

    name = "type-thompson"
    summary_text = "explores who the user is: Thompson sampling over types of users, learned across sessions"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings. Raises InputError where user features do not count what was shown and clicked."""
        self._settings = s = cast(Settings, settings)
        names = [f"{what}_{name}" for what in ("shown", "clicked") for name in self.spec.catalogue]
        missing = [name for name in names if name not in self.spec.user]
        if missing or not names:
            raise InputError(
                f"{self.name} tells users by what they were shown and clicked in the session so far, and there is no "
                f"user feature {(missing or ['shown_…'])[0]!r}: it needs shown_X and clicked_X for every catalogue "
                "feature X, as interest-exploration has them"
            )
        self._columns = [self.spec.user.index(name) for name in names]
        topics, items = len(self.spec.catalogue), len(self.spec.items)
        f64: Any = {"dtype": torch.float64, "device": self.device}
        self._rates = torch.full((s.types, topics), 0.5, **f64)
        self._shares = torch.full((s.types,), 1 / s.types, **f64)
        self._totals = torch.zeros(0, 2, topics, **f64)  # of finished sessions, newest last: shown, clicked
        self._sums = torch.zeros(topics, items + 2, items + 2, **f64)  # Σ z zᵀ by topic, z = (1, item, clicked)
        self._unit = torch.zeros(2, **f64)  # what the totals grew by, and how many items were shown
        self._fresh = 0

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return self._settings

    def epsilon(self) -> float:
        """Return the probability of a uniform slate when exploring: 1 until types are known."""
        return self.explore_floor if self.updates else 1.0

    def counts(self, observation: Observation) -> Tensor:
        """Return how many items of every topic were shown and clicked in the session, float64 [B, 2, T]."""
        unit = self._unit[0] / self._unit[1].clamp(min=1)
        totals = observation.user[:, self._columns].double()
        return (totals / torch.where(unit > 0, unit, 1.0)).unflatten(1, (2, -1))

    def posterior(self, observation: Observation) -> Tensor:
        """Return the probability of every type given the session so far, float64 [B, M]."""
        return (log_likelihood(self.counts(observation), self._rates) + self._shares.log()).softmax(1)

    def scores(self, observation: Observation) -> Tensor:
        """Return the probability of a click on every candidate if the user is of each type, float64 [B, M, C]."""
        means, slope = self._item_effect()
        everything = torch.arange(observation.item_ids.shape[1], device=self.device)
        features = observation.features(everything.expand(observation.item_ids.shape)).double()
        topics, items = features.split([means.shape[0], means.shape[1]], 2)
        own = ((items - topics @ means) @ slope).unsqueeze(1)
        return torch.einsum("mt,bct->bmc", self._rates, topics) + own

    def _item_effect(self) -> tuple[Tensor, Tensor]:
        """Return the mean item features of every topic [T, D], and how clicks grow with them [D].

        Ridge regression within topics, so that what is due to the topic is left to the rates.
        """
        count = self._sums[:, :1, :1].clamp(min=1)
        mean = self._sums[:, :1] / count
        within = (self._sums - count * mean.transpose(1, 2) * mean).sum(0)[1:, 1:]
        penalty = torch.eye(len(within) - 1, dtype=torch.float64, device=self.device)
        return mean[:, 0, 1:-1], torch.linalg.solve(within[:-1, :-1] + penalty, within[:-1, -1])

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - the draw is in `act`
        """Return the items of highest mean probability of a click over the types."""
        mean = torch.einsum("bm,bmc->bc", self.posterior(observation), self.scores(observation))
        return top_k(mean, observation.mask, self.slate_size)

    def slates(self, observation: Observation) -> Tensor:
        """Return the best slate for each type, int64 [B, M, K]."""
        scores = self.scores(observation)
        mask = observation.mask.unsqueeze(1).expand(scores.shape)
        return top_k(scores.flatten(0, 1), mask.flatten(0, 1), self.slate_size).unflatten(0, scores.shape[:2])

    def act(self, observation: Observation, explore: bool = True) -> Decision:
        """Draw a type for every user and show its best slate; without `explore` the best over all types."""
        if not explore:
            return super().act(observation, explore)
        posterior, slates = self.posterior(observation), self.slates(observation)
        drawn = posterior.multinomial(1, generator=self.generator).view(-1, 1, 1)
        best = slates.gather(1, drawn.expand(-1, 1, slates.shape[2])).squeeze(1)
        slate = epsilon_slate(best, observation.mask, self.epsilon(), self.generator)[0]
        return Decision(slate, self._propensity(posterior, slates, slate, observation.mask))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        """Return the probability of each slot's item given the slots before it, float64 [B, K], in closed form."""
        if not explore:
            return super().propensity(observation, slate, explore)
        return self._propensity(self.posterior(observation), self.slates(observation), slate, observation.mask)

    def probabilities(self, observation: Observation, explore: bool = True) -> Tensor:
        """Return the probability of every candidate in the first slot, float64 [B, C]."""
        if not explore:
            return super().probabilities(observation, explore)
        drawn = first_shown(self.slates(observation), self.posterior(observation), observation.item_ids.shape[1])
        return explored(drawn, observation, self.epsilon())

    def _propensity(self, posterior: Tensor, slates: Tensor, slate: Tensor, mask: Tensor) -> Tensor:
        drawn = mixture_propensity(posterior, slates, slate)
        epsilon = self.epsilon()
        return mix_propensity(epsilon, uniform_propensity(mask, slate), drawn) if epsilon > 0 else drawn

    def observe(self, interactions: Interactions) -> None:
        """Take shown items into the sums, and the totals of sessions that ended. Raises InputError without a next."""
        after = interactions.next_observation
        if after is None:
            raise InputError(f"{self.name} reads what a session came to, and these interactions have no "
                             "next_observation")  # fmt: skip
        slate, shown = interactions.decision.slate, interactions.decision.slate >= 0
        features = interactions.observation.features(slate).double()
        topics, items = features.split([len(self.spec.catalogue), len(self.spec.items)], 2)
        z = torch.cat([shown.unsqueeze(2), items, interactions.response.clicked.unsqueeze(2)], 2)
        self._sums += torch.einsum("bkt,bky,bkz->tyz", topics, z, z)
        growth = (after.user - interactions.observation.user)[:, self._columns[: topics.shape[2]]]
        self._unit += torch.stack([growth.double().sum(), topics.sum()])
        ended = self.counts(after[interactions.done])
        self._totals = torch.cat([self._totals, ended])[-self._settings.sessions :]
        self._fresh += len(ended)
        self.steps += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Fit the types to the newest sessions; None until there are enough, or without a new one.

        Returns `log_likelihood` (a session's mean) and `largest_share` (of a type).
        """
        if not self._fresh or len(self._totals) < min(self._settings.first_sessions, self._settings.sessions):
            return None
        known = self._rates.unsqueeze(0), self._shares.unsqueeze(0)
        rates, shares, fit = fit_types(self._totals, *(known if self.updates else self._beginnings()))
        best = int(fit.argmax())
        self._rates, self._shares, self._fresh = rates[best], shares[best], 0
        self.updates += 1
        return {"log_likelihood": float(fit[best]), "largest_share": float(self._shares.max())}

    def _beginnings(self) -> tuple[Tensor, Tensor]:
        """Return the rates of sessions drawn at random, as many as types, [R, M, T], and equal shares [R, M]."""
        types = self._settings.types
        draws = torch.randint(len(self._totals), (STARTS, types), generator=self.generator, device=self.device)
        shown, clicked = self._totals[draws].unbind(2)
        return (clicked + PRIOR) / (shown + 2 * PRIOR), self._shares.expand(STARTS, -1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the types, and what they are learned from."""
        known = {"rates": self._rates, "shares": self._shares, "totals": self._totals, "sums": self._sums}
        return known | {"unit": self._unit, "fresh": torch.tensor(self._fresh)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self._rates, self._shares, self._totals = tensors["rates"], tensors["shares"], tensors["totals"]
        self._sums, self._unit, self._fresh = tensors["sums"], tensors["unit"], int(tensors["fresh"])


def log_likelihood(counts: Tensor, rates: Tensor) -> Tensor:
    """Return the log-probability of clicks among shows, up to what all types share.

    counts: [n, 2, T], shown and clicked.  rates: [..., M, T].  Returns [..., n, M].
    """
    shown, clicked = counts.unbind(1)
    return clicked @ rates.log().mT + (shown - clicked) @ (-rates).log1p().mT


def fit_types(totals: Tensor, rates: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a mixture of binomials by expectation maximisation (Dempster et al. 1977), from R beginnings at once.

    totals: [n, 2, T], shown and clicked of every session.  rates: [R, M, T].  shares: [R, M].
    Returns rates and shares after `ROUNDS` rounds, and the mean log-likelihood of a session that they began the last
    round with, [R]. Rates have a Beta(2, 2) prior, so none becomes 0 or 1.
    """
    shown, clicked = totals.unbind(1)
    fit = shares.new_zeros(len(rates))
    for _ in range(ROUNDS):
        joint = log_likelihood(totals, rates) + shares.log().unsqueeze(1)
        evidence = joint.logsumexp(2, keepdim=True)
        belongs = (joint - evidence).exp().mT  # [R, M, n]
        fit = evidence.mean((1, 2))
        rates = (belongs @ clicked + PRIOR) / (belongs @ shown + 2 * PRIOR)
        shares = (belongs.sum(2) + PRIOR) / (totals.shape[0] + PRIOR * rates.shape[1])
    return rates, shares, fit


def mixture_propensity(weights: Tensor, slates: Tensor, slate: Tensor) -> Tensor:
    """Return per-slot propensities of showing one of M slates, drawn by weight: float64 [B, K].

    weights: [B, M], summing to 1.  slates: [B, M, K].  slate: [B, K], the one that is asked about; 0 after a prefix
    that none of them has.
    """
    agreeing = (slates == slate.unsqueeze(1)).cumprod(2)
    prefix = (weights.unsqueeze(2) * agreeing).sum(1)
    before = torch.cat([torch.ones_like(prefix[:, :1]), prefix[:, :-1]], 1)
    return torch.where(before > 0, prefix / before, 0.0).clamp(max=1.0)
