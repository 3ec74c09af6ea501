"""Planning with a learned model of the user: what users take, what they earn, what becomes of them.

Fitted to interactions, whoever decided: a choice model (`slatewise.fitting`); linear regressions of the reward and of
the next user features on those of user and item, where one was taken and where nothing was; a logistic regression of
the end of a session on the next features. A plan is made by imagining: users live in the model under the present plan,
values linear in the user features are fitted to what they earned, and the next round acts by these (policy iteration
by Monte Carlo, Sutton & Barto 2018, sections 4.3 and 5.3, in a learned model, Sutton 1991, "Dyna, an integrated
architecture for learning, planning, and reacting"). With linear values the expectation of the next features is all that
counts (Parr et al. 2008, "An analysis of linear models, linear value-function approximation, and feature selection for
reinforcement learning"). Slates as Ie et al. 2019, arXiv 1905.12767, section 5, with no click valued like an item.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from slatewise.agents.base import Agent, AgentSettings, check_single_clicks
from slatewise.choice import Bilinear, Cascade, Choice, FirstPosition, Logit, Multinomial, check_features, choose
from slatewise.errors import InputError
from slatewise.fitting import fit
from slatewise.interactions import Interactions, Observation, Spec
from slatewise.linear import joint_features, joint_scores, joint_size, with_one
from slatewise.slates import best_slate

LARGEST = 5000  # joint features of user and item, whose squares are summed
CHUNK = 4096  # rows whose joint features are written out at a time
NEWTON = 100  # steps of a logistic regression at most
ROUNDS = 4  # of imagining and improving
FORGOTTEN = 0.01  # probability of lasting so long, below which imagined sessions are cut


class Settings(AgentSettings):
    """Settings of the planner."""

    first_steps: int = Field(2000, ge=10, description="random user-steps before the first plan, at least")
    newest: int = Field(100_000, ge=10, description="newest user-steps that the choice model and a plan are made from")
    imagined: int = Field(256, ge=2, description="users whose sessions a plan imagines, four times")
    longest: int = Field(300, ge=1, description="steps of an imagined session at most")
    epsilon: float = Field(0.1, ge=0, le=1, description="probability of a random slate after the first plan")
    discount: float = Field(1.0, ge=0, le=1, description="γ: what a reward one step later is worth")
    penalty: float = Field(1.0, gt=0, description="of all regressions: in rows that show nothing")
    users: Literal["fitted", "given"] = Field(
        "fitted", description="how users choose: a logit fitted to clicks, or the choice model that is given"
    )


class ModelPlanner(Agent):
    """Learns a model of the user from anybody's interactions, and plans slates in it."""

    name = "model-planner"
    summary_text = "learns how users choose, earn and change, and plans slates in that model"
    Settings = Settings
    learns_from_logs = True
    needs_item_features = True

    def build(self, settings: Any) -> None:
        """Take the settings and begin with nothing known. Raises InputError for what it cannot plan for."""
        self._settings = s = cast(Settings, settings)
        if s.users == "given":
            _check_choice(self.choice, self.spec)
        size = joint_size(self.spec)
        if size > LARGEST:
            raise InputError(
                f"model-planner regresses on all products of user and item features, here {size:,}, and {LARGEST:,} "
                "is the most: show it fewer features, or take slateq"
            )
        basis = 1 + len(self.spec.user)
        self.taken = Regression(size, basis, self.device)
        self.nothing = Regression(basis, basis, self.device)
        zeros = partial(torch.zeros, dtype=torch.float64, device=self.device)
        self._learned = {
            "taken": zeros(size, basis),
            "nothing": zeros(basis, basis),
            "ends": zeros(basis),
            "values": zeros(basis),
            "lowest": zeros(basis - 1),
            "highest": zeros(basis - 1),
            "choice_weights": zeros(len(self.spec.user), self.spec.item_features),
            "choice_items": zeros(self.spec.item_features),
            "choice_no_click": zeros(()),
        }
        self._users = self._read_choice()
        self._new: list[Interactions] = []
        self._since = 0  # user-steps since the last plan
        self._end = s.first_steps

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return self._settings

    def plan(self, steps: int) -> None:
        """Take the length of the run: plans are made after all of it, a half, a quarter, and so on."""
        self._end = steps

    def epsilon(self) -> float:
        """Return the probability of a uniform slate when exploring: 1 before the first plan."""
        own = self._settings.epsilon if self.updates else 1.0
        return 1 - (1 - own) * (1 - self.explore_floor)

    # Deciding.

    def values(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return what a session is still worth if a candidate is taken [B, C], and if nothing is [B]; in reward."""
        values = self._worth(*self.outcomes(observation))
        return values[:, :-1], values[:, -1]

    def outcomes(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return the expected reward [B, C + 1] and next (1, features), [B, C + 1, 1 + U].

        Of every candidate if it is taken, and last of taking nothing.
        """
        observation.check_users(len(self.spec.user))
        learned, user = self._learned, with_one(observation.user)
        items = joint_scores(observation, learned["taken"].T.contiguous()).transpose(1, 2)
        outcome = torch.cat([items, (user @ learned["nothing"]).unsqueeze(1)], 1)
        following = (user[:, 1:].unsqueeze(1) + outcome[:, :, 1:]).clamp(learned["lowest"], learned["highest"])
        return outcome[:, :, 0], torch.cat([torch.ones_like(outcome[:, :, :1]), following], 2)

    def _worth(self, reward: Tensor, following: Tensor) -> Tensor:
        """Return reward + γ · P(the session goes on) · value of next (1, features), any shape."""
        ahead = torch.sigmoid(-(following @ self._learned["ends"])) * (following @ self._learned["values"])
        return reward + self._settings.discount * ahead

    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the long-term `value` of every candidate if taken, and that `over nothing` taken, [B, C] each."""
        items, nothing = self.values(observation)
        return {"value": items, "over nothing": items - nothing.unsqueeze(1)}

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the slate of highest value in the model."""
        return self._slate(observation, *self.values(observation))

    def _slate(self, observation: Observation, items: Tensor, nothing: Tensor) -> Tensor:
        scores = self._users.scores(observation)
        return best_slate(self._users, scores, items, nothing, observation.mask, self.slate_size)[0]

    # Learning.

    def observe(self, interactions: Interactions) -> None:
        """Take interactions into the regressions, whoever decided; rows without a known reward are left out.

        Raises InputError where there is no next observation, or users take several items of a slate.
        """
        if interactions.next_observation is None:
            raise InputError("model-planner learns what becomes of users, and there is no next_observation")
        check_single_clicks(self.name, interactions)
        self.steps += len(interactions)
        self._since += len(interactions)
        known = interactions[interactions.response.reward_known]
        for start in range(0, len(known), CHUNK):
            self._take_in(known[start : start + CHUNK])
        self._new.append(known)
        while len(self._new) > 1 and sum(map(len, self._new[1:])) >= self._settings.newest:
            self._new.pop(0)

    def _take_in(self, rows: Interactions) -> None:
        """Add rows to the regression of taken items, or to that of nothing taken."""
        following = cast(Observation, rows.next_observation)
        before, after = with_one(rows.observation.user), with_one(following.user)
        outcome = torch.cat([rows.response.total_reward.unsqueeze(1), after[:, 1:] - before[:, 1:]], 1)
        clicked = rows.response.clicked
        taken = clicked.any(1)
        position = rows.decision.slate.gather(1, clicked.int().argmax(1, keepdim=True))
        self.taken.add(joint_features(rows.observation[taken], position[taken]).squeeze(1), outcome[taken])
        self.nothing.add(before[~taken], outcome[~taken])

    def update(self) -> dict[str, float] | None:
        """Plan anew where it is time; return what the plan says, or None before that.

        `value`: mean return to come in imagined sessions. `log_likelihood` of the fitted choice model, of a user-step.
        Of few new user-steps only the regressions are solved anew.
        """
        new = sum(map(len, self._new))
        if new == 0 or (self.steps < self._due() and new < self._settings.newest):
            return None
        rows = Interactions.cat(self._new)[-self._settings.newest :]
        self._new, self._since = [], 0
        enough = len(rows) >= self._settings.first_steps or self.updates == 0
        metrics = self._fit_users(rows) if enough else {}
        penalty = self._settings.penalty
        self._learned |= {"taken": self.taken.weights(penalty), "nothing": self.nothing.weights(penalty)}
        order = torch.randperm(len(rows), generator=self.generator, device=self.device)
        metrics |= self._improve(rows.observation[order[: self._settings.imagined]])
        self.updates += 1
        return metrics

    def _due(self) -> float:
        """Return when to plan next, in user-steps: the end of the run, over or times a power of two."""
        planned = self.steps - self._since
        least = max(self._settings.first_steps, planned + 1)
        due = self._end * 2.0 ** math.ceil(math.log2(least / self._end))
        return min(due, self._end) if planned < self._end else due

    def _fit_users(self, rows: Interactions) -> dict[str, float]:
        """Fit who leaves and how users choose; predictions of features will stay near what was seen."""
        following = cast(Observation, rows.next_observation).user.double()
        low, high = following.amin(0), following.amax(0)
        ends = logistic(with_one(following), rows.terminated, self._settings.penalty)
        self._learned |= {"ends": ends, "lowest": low - (high - low), "highest": high + (high - low)}
        if self._settings.users == "given":
            return {}
        found = fit("logit", rows, penalty=self._settings.penalty)
        self._learned |= {f"choice_{key}": value for key, value in found.parameters.items()}
        self._users = self._read_choice()
        return {"log_likelihood": found.log_likelihood}

    def _read_choice(self) -> Any:
        """Return the choice model, of the learned parameters or as given."""
        if self._settings.users == "given":
            return self.choice
        weights, items = self._learned["choice_weights"].tolist(), self._learned["choice_items"].tolist()
        return Logit(Bilinear(tuple(map(tuple, weights)), tuple(items)), float(self._learned["choice_no_click"]))

    def _improve(self, states: Observation) -> dict[str, float]:
        """Imagine sessions, fit values to what they earned, and do better in the next."""
        value = 0.0
        for _ in range(ROUNDS):
            basis, returns, alive = self._imagine(states)
            weighted = basis * alive.unsqueeze(1)
            self._learned["values"] = solved(weighted.T @ basis, weighted.T @ returns.unsqueeze(1), 1e-9).squeeze(1)
            value = float((returns * alive).sum() / alive.sum())
        return {"value": value}

    def _imagine(self, states: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Let users live in the model under the present plan, candidates as they were offered to others.

        Returns (1, features) [n, 1 + U] of all moments, what they had still to earn [n], and the probability that a
        session lasted so long [n].
        """
        moments, rewards, chances = list[Tensor](), list[Tensor](), list[Tensor]()
        user, alive = states.user, torch.ones(len(states), dtype=torch.float64, device=self.device)
        for _ in range(self._settings.longest):
            offered = states[torch.randperm(len(states), generator=self.generator, device=self.device)]
            reward, following, lasts = self._live(replace(offered, user=user))
            moments.append(with_one(user))
            rewards.append(reward)
            chances.append(lasts)
            user, alive = following[:, 1:].float(), alive * lasts
            if float(alive.max()) < FORGOTTEN:
                break
        returns, lasted = [torch.zeros_like(alive)], [torch.ones_like(alive)]
        for reward, lasts in zip(reversed(rewards), reversed(chances), strict=True):
            returns.append(reward + self._settings.discount * lasts * returns[-1])
        for lasts in chances[:-1]:
            lasted.append(lasted[-1] * lasts)
        return torch.cat(moments), torch.cat(returns[:0:-1]), torch.cat(lasted)

    def _live(self, observation: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a step earns [B], the next (1, features) [B, 1 + U], and the probability to go on [B]."""
        reward, following = self.outcomes(observation)
        values = self._worth(reward, following)
        slate = self._slate(observation, values[:, :-1], values[:, -1])
        at = slate.clamp(min=0)
        chance = self._users.probabilities(self._users.scores(observation).gather(1, at), slate >= 0)
        slot = choose(chance, torch.rand(len(slate), generator=self.generator, device=self.device))
        nothing = torch.full_like(slate[:, :1], reward.shape[1] - 1)
        taken = torch.cat([at, nothing], 1).gather(1, slot.unsqueeze(1))
        after = following.gather(1, taken.unsqueeze(2).expand(-1, -1, following.shape[2])).squeeze(1)
        return reward.gather(1, taken).squeeze(1), after, torch.sigmoid(-(after @ self._learned["ends"]))

    # Saving.

    def tensors(self) -> dict[str, Tensor]:
        """Return sums of the regressions, choice model and plan, by name."""
        sums = {f"taken.{key}": value for key, value in self.taken.tensors().items()}
        return self._learned | sums | {f"nothing.{key}": value for key, value in self.nothing.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self._learned = {key: tensors[key].clone() for key in self._learned}
        for name, regression in (("taken", self.taken), ("nothing", self.nothing)):
            regression.load({key: tensors[f"{name}.{key}"].clone() for key in regression.tensors()})
        self._users = self._read_choice()


class Regression:
    """Linear regression of T targets on M features, kept as sums in float64."""

    def __init__(self, features: int, targets: int, device: torch.device) -> None:
        self.outer = torch.zeros(features, features, dtype=torch.float64, device=device)
        self.moment = torch.zeros(features, targets, dtype=torch.float64, device=device)
        self.rows = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take rows of features [n, M] and targets [n, T] into the sums."""
        self.outer.addmm_(features.T, features)
        self.moment.addmm_(features.T, targets)
        self.rows += len(features)

    def weights(self, penalty: float) -> Tensor:
        """Return the weights [M, T]; the penalty counts like so many rows, whatever the units of the features."""
        return solved(self.outer, self.moment, penalty / max(1.0, float(self.rows)))

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums, by name; what `load` takes."""
        return {"outer": self.outer, "moment": self.moment, "rows": self.rows}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.outer, self.moment, self.rows = tensors["outer"], tensors["moment"], tensors["rows"]


def solved(outer: Tensor, moment: Tensor, share: float) -> Tensor:
    """Solve (outer + share · its diagonal) w = moment for w [M, T]; what has no diagonal gets 0."""
    scale = outer.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    alike = outer / scale.outer(scale) + share * torch.eye(len(outer), dtype=outer.dtype, device=outer.device)
    return torch.cholesky_solve(moment / scale.unsqueeze(1), torch.linalg.cholesky(alike)) / scale.unsqueeze(1)


def logistic(features: Tensor, happened: Tensor, penalty: float) -> Tensor:
    """Return the weights [M] of a logistic regression of what happened, bool [n], on (1, features) [n, M].

    Newton's steps, halved while the loss would rise. penalty: of ½ ‖weights‖² for standardised features.
    """
    deviation, mean = torch.std_mean(features[:, 1:], 0, correction=0)
    scale = torch.where(deviation > 1e-9, deviation, 1.0)
    x, sign = torch.cat([features[:, :1], (features[:, 1:] - mean) / scale], 1), 2 * happened.double() - 1

    def loss(weights: Tensor) -> float:
        return float(nn.functional.softplus(-sign * (x @ weights)).sum() + penalty / 2 * weights.square().sum())

    weights, ridge = torch.zeros_like(x[0]), penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    for _ in range(NEWTON):
        chance = torch.sigmoid(x @ weights)
        gradient = x.T @ (chance - happened.double()) + penalty * weights
        step = torch.linalg.solve((x * (chance * (1 - chance)).unsqueeze(1)).T @ x + ridge, gradient)
        while loss(weights - step) > loss(weights) and float(step.abs().max()) > 1e-9:
            step = step / 2
        weights = weights - step
        if float(step.abs().max()) < 1e-6:
            break
    slopes = weights[1:] / scale
    return torch.cat([weights[:1] - slopes @ mean, slopes])


def _check_choice(choice: Choice | None, spec: Spec) -> None:
    if not isinstance(choice, Multinomial | Cascade | FirstPosition):
        named = "none" if choice is None else repr(choice.name)
        raise InputError(
            f"model-planner with users=given needs the choice model of users who take at most one item, and was given "
            f"{named}: pass choice= in Python, or leave users=fitted to learn one from clicks"
        )
    check_features(choice, spec)
