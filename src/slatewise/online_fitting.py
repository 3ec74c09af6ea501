"""A choice model learned from clicks as they come: rollout after rollout, none of which is kept.

`fitting.fit` finds the model that makes given clicks likeliest; here the same penalised likelihood is climbed by one
step of natural gradient a rollout (Amari 1998, "Natural gradient works efficiently in learning"). The gradient of a
row is the outer product of (user features, 1) and of what its slate says about item features, so the information is
taken to be the Kronecker product of their second moments (Martens & Grosse 2015, arXiv 1503.05671, section 3):
two small matrices, whatever the units of the features. What is used is the mean of the iterates, which in the long run
is as exact as a fit to all clicks at once (Polyak & Juditsky 1992). Later ones count more (Shamir & Zhang 2013, arXiv
1212.1824), because slates change while the agent learns; that costs as much as half of the clicks would.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from slatewise.choice import Bilinear, Choice, ExponentialCascade, Logit
from slatewise.errors import InputError
from slatewise.fitting import CONSTANTS, HELD, as_data, click_log_likelihood, model_of
from slatewise.interactions import Interactions, Spec

PENALTY = 1.0  # of ½ (‖W‖² + ‖w‖²), once for all clicks, as in `fit`
RATE, FALL = 0.5, 0.7  # steps are RATE / rollouts^FALL; ½, because w and the constant often say the same, and both step
LATER = 3.0  # the weight of an iterate in the mean grows like rollouts^LATER
TRUSTED = 16  # rollouts that a model to start from counts for
HALVINGS = 10  # of a step that would make its own rollout less likely
LEARNED = "weights", "constant", "mean_weights", "mean_constant", "users", "items", "information"


class OnlineFit:
    """Learns a choice model with scores uᵀWd + w·d + b from one rollout after the other.

    name: `logit` or `exponential-cascade`.  start: a model of that name to begin with, as `fit` makes them; None knows
    nothing.  In float64, no randomness. Raises InputError for another start.
    """

    def __init__(self, name: str, spec: Spec, device: torch.device, start: Choice | None = None) -> None:
        self.name = name
        users, items = len(spec.user) + 1, spec.item_features
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self.rollouts = self.rows = 0
        self.weights = zero.new_zeros(users, items)  # W, and below it w
        self.constant = zero - (3 if "cascade" in name else 0)
        if start is not None:
            self._begin(start)
        self.mean_weights, self.mean_constant = self.weights.clone(), self.constant.clone()
        self.users = zero.new_zeros(users, users)  # second moments: of (user features, 1),
        self.items = zero.new_zeros(items, items)  # of what a slate says of item features,
        self.information = zero.clone()  # and of what it says of the constant
        self.choice = self._choice()

    def _begin(self, start: Choice) -> None:
        affinity = getattr(start, "affinity", None)
        if start.name != self.name or not isinstance(affinity, Bilinear):
            kind = f"{start.name!r}" + (f" of {affinity.name} affinity" if affinity is not None else "")
            raise InputError(
                f"fit_choice={self.name} learns the choice model from clicks, and choice= gives {kind}, which holds "
                f"without learning: drop choice= to learn it, or fit_choice to plan with what is given (only a "
                f"{self.name} of bilinear affinity, as fitting.fit makes, is something to start from)"
            )
        shape = len(affinity.weights) + 1, len(affinity.items)
        if shape != tuple(self.weights.shape):
            raise InputError(
                f"choice= reads {shape[0] - 1} user and {shape[1]} item features, and here are "
                f"{len(self.weights) - 1} and {self.weights.shape[1]}: drop choice=, or fit it to the same features"
            )
        self.weights.copy_(torch.tensor([*affinity.weights, affinity.items], dtype=torch.float64))
        if isinstance(start, Logit):
            self.constant.fill_(start.no_click - affinity.bias)
        elif isinstance(start, ExponentialCascade):  # of attention and scaling only the product shows
            self.constant.fill_(
                math.log(start.scaling * start.attention / ExponentialCascade.attention) + affinity.bias
            )
        self.rollouts = TRUSTED

    @torch.no_grad()
    def learn(self, rollout: Interactions) -> float:
        """Take one step up the likelihood of a rollout's clicks; return their mean log-likelihood before it."""
        clicks = _Clicks.of(self.name, rollout)
        before = float(clicks.log_likelihood(clicks.scores(self.mean_weights), self.mean_constant))
        likelihood, said, constant_said = clicks.slopes(self.weights, self.constant)
        self.rows += len(rollout)
        self.rollouts += 1
        self._learn_information(clicks.user, said, constant_said)
        step = self._uphill(clicks.user.T @ said / len(said) - PENALTY / self.rows * self.weights)
        constant_step = constant_said.mean() / (self.information + 1 / self.rows)
        rate = RATE * self.rollouts**-FALL
        for _ in range(HALVINGS):
            weights, constant = self.weights + rate * step, self.constant + rate * constant_step
            if bool(clicks.log_likelihood(clicks.scores(weights), constant) >= likelihood):
                self.weights, self.constant = weights, constant
                break
            rate /= 2
        share = (1 + LATER) / (self.rollouts + LATER)
        self.mean_weights = self.mean_weights.lerp(self.weights, share)
        self.mean_constant = self.mean_constant.lerp(self.constant, share)
        self.choice = self._choice()
        return before

    def _learn_information(self, user: Tensor, said: Tensor, constant_said: Tensor) -> None:
        """Average the second moments, over the later half of the rollouts mostly: slates change with the agent."""
        share = 2 / (self.rollouts + 1) if self.rows > len(user) else 1.0
        self.users = self.users.lerp(user.T @ user / len(user), share)
        self.items = self.items.lerp(said.T @ said / len(said), share)
        self.information = self.information.lerp(constant_said.square().mean(), share)

    def _uphill(self, gradient: Tensor) -> Tensor:
        """Return the natural gradient: solve for it in the directions of both matrices, the penalty's share added."""
        users, across = torch.linalg.eigh(self.users)
        items, along = torch.linalg.eigh(self.items)
        information = users.clamp(min=0).outer(items.clamp(min=0)) + PENALTY / self.rows
        return across @ ((across.T @ gradient @ along) / information) @ along.T

    def _choice(self) -> Choice:
        """Return the model as data."""
        key, transform = CONSTANTS[self.name]
        values = {"weights": self.mean_weights[:-1], "items": self.mean_weights[-1]}
        return as_data(self.name, None, {**values, key: transform(self.mean_constant)})

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it, by name."""
        counts = {key: torch.tensor(getattr(self, key)) for key in ("rollouts", "rows")}
        return {key: getattr(self, key) for key in LEARNED} | counts

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for key in LEARNED:
            setattr(self, key, tensors[key])
        self.rollouts, self.rows = int(tensors["rollouts"]), int(tensors["rows"])
        self.choice = self._choice()


@dataclass(frozen=True, eq=False)
class _Clicks:
    """What users saw and did: (user features, 1) [B, U + 1], features of the shown items [B, K, F], clicks [B, K]."""

    name: str
    user: Tensor
    features: Tensor
    clicked: Tensor
    mask: Tensor

    @staticmethod
    def of(name: str, rollout: Interactions) -> "_Clicks":
        slate = rollout.decision.slate
        user = pad(rollout.observation.user.double(), (0, 1), value=1.0)
        return _Clicks(name, user, rollout.observation.features(slate).double(), rollout.response.clicked, slate >= 0)

    def scores(self, weights: Tensor) -> Tensor:
        """Return the scores of the shown items, [B, K]."""
        return torch.einsum("bf,bkf->bk", self.user @ weights, self.features)

    def log_likelihood(self, scores: Tensor, constant: Tensor) -> Tensor:
        """Return the mean log-probability of what was done, differentiable in scores and constant."""
        key, transform = CONSTANTS[self.name]
        model = model_of(self.name, HELD, {key: transform(constant)})
        return click_log_likelihood(model, scores, self.clicked, self.mask).mean()

    def slopes(self, weights: Tensor, constant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean log-likelihood, and what every row says of item features [B, F] and of the constant [B].

        That is, the derivative of its log-likelihood by (user features, 1) · W is the one, and by the constant the
        other: minus all scores together (a logit), or with them (a cascade, whose constant is the log of scaling).
        """
        with torch.enable_grad():
            scores = self.scores(weights).requires_grad_(True)
            likelihood = self.log_likelihood(scores, constant)
            (by_score,) = torch.autograd.grad(likelihood * len(scores), scores)
        total = by_score.sum(1)
        said = torch.einsum("bk,bkf->bf", by_score, self.features)
        return likelihood.detach(), said, -total if self.name == Logit.name else total
