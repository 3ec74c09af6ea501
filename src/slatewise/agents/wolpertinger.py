"""Wolpertinger: an actor says where to look in the space of items, a critic chooses among the items nearest to it.

Sources: Dulac-Arnold et al. 2015, arXiv 1512.07679 (the actor's proto-action, its k nearest items, the critic's best
of them: its Algorithm 1, the full policy); the actor follows the deterministic policy gradient, ∇θ Q(s, μθ(s)) =
∇θ μθ(s) · ∇x Q(s, x) at x = μθ(s) (Silver et al. 2014; Lillicrap et al. 2015, arXiv 1509.02971, equation 6).

- **The space** is that of the items' features, standardised: those of the catalogue once, when it is first learned
  from, so that items stay where they are, and an index of a million of them is built once and serves while the agent
  learns. A learned embedding would move them all at every update. Nearest is by Euclidean distance, as in the paper:
  the gradient says where the critic is high, not in which direction it rises for ever. It is an inner product too,
  ⟨x, μ⟩ − |x|² / 2, so every index finds it.
- **Goals** (`pull`): between items the critic knows nothing, and an actor that follows its gradient alone is led out of
  the catalogue, to places that it promises much of and whose nearest items are poor. So the critic also compares some
  candidates at random with those nearest, and the best of them draws the actor: it climbs A(s, μ) / σ − pull ·
  |μ − goal|² / 2, the gradient held to length 1 (the form of Fujimoto & Gu 2021, arXiv 2106.06860, who draw an actor
  to what a log did). With `pull=0` the gradient alone is left, as published, but for the limit of its length. Where
  DDPG has slowly moving copies of actor and critic, `target_every` copies the critic, and there is one actor.
- **The critic** is a network of user and item together, differentiable in the item, and no inner product: where one
  will do, two towers find the best items without an actor (`Retrieved` of any agent that has them).
- **Slates**: a slate is worth V(s) plus the mean of A(s, item) over its items, fitted to what followed the whole slate.
  So an item's value holds how it changes what users choose, as far as that adds up, and no choice model is needed;
  the value of what was consumed would need one, to say how likely it is consumed. The best slate of k items is
  the K of highest A. A sum has the same best place for every slot, so there is one proto-action a slate.
- **Exploration** is by uniform slates, whose probabilities are known. Noise on the proto-action, as in DDPG, would show
  a slate with the probability of the region in which it is the answer, which has no closed form.
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from slatewise.agents.long_term import LongTermAgent, LongTermSettings
from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Interactions, Observation, Spec
from slatewise.item_space import Space, query
from slatewise.networks import Descent, Encoder, Regression, UserReader, Valuing, perceptron
from slatewise.slates import top_k

ACTOR_ROWS = 4  # one decision in so many teaches the actor where a goal costs hundreds of values
DISTANCES_AT_ONCE = 2**24  # numbers in the search for what is near: 64 MB


class Settings(LongTermSettings):
    """Settings of Wolpertinger."""

    rollout_steps: int = Field(4, ge=1, description="steps of all users between updates")
    learning_rate: float = Field(3e-3, gt=0, description="at the start; falls to 0 over the planned steps")
    nearest: int = Field(32, ge=1, description="k: items nearest to the proto-action that the critic chooses among")
    compared: int = Field(
        256, ge=1, description="candidates at random among which the critic looks for goals of the actor, in learning"
    )
    pull: float = Field(
        1.0,
        ge=0,
        description="how strongly the best of them draws the actor, beside the gradient; 0: the gradient alone, as "
        "published",
    )
    embedding: int = Field(64, ge=1, description="size of the layers in which user and item meet")


class Actor(UserReader):
    """Says for every user where in the space of items to look, before it is held within bounds, [B, F]."""

    def __init__(self, spec: Spec, hidden: int, encoder: Encoder) -> None:
        super().__init__(spec, hidden, encoder)
        self.tower = perceptron(self.known, hidden, hidden, spec.item_features)

    def forward(self, observation: Observation) -> Tensor:
        """Return the coordinates, any numbers."""
        return self.tower(self.read(observation))


class Critic(Valuing):
    """Values users V(s), and items for them A(s, x), x a point of the space; a slate is V plus the mean of its A."""

    def __init__(self, spec: Spec, hidden: int, embedding: int, encoder: Encoder) -> None:
        super().__init__(spec, hidden, encoder)
        self.space = Space(spec)
        self.tower = perceptron(self.known, hidden, hidden, embedding + 1)
        self.item = nn.Linear(self.space.width, embedding)
        self.joint = nn.Sequential(nn.LayerNorm(embedding), nn.ReLU(), perceptron(embedding, embedding, 1))

    def learn_scale(self, observation: Observation) -> None:
        """Take the features of a batch into the statistics that standardise the input."""
        super().learn_scale(observation)
        self.space.learn_scale(observation)

    def users(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return what of users meets items, [B, Z], and their value V, [B]."""
        output = self.tower(self.read(observation))
        return output[:, :-1], output[:, -1]

    def advantages(self, users: Tensor, points: Tensor) -> Tensor:
        """Return A of points [B, P, F] for users [B, Z], as [B, P]."""
        return self.joint(users.unsqueeze(1) * self.item(points)).squeeze(2)

    def at(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return the value of a slate a row, [B, 1] from positions [B, K]; a hole does not count."""
        users, value = self.users(observation)
        shown = positions >= 0
        each = self.advantages(users, self.space.at(observation, positions)) * shown
        return (value + each.sum(1) / shown.sum(1).clamp(min=1)).unsqueeze(1)


class Gaze:
    """Where an agent looks, as inner products: what `Retrieved` asks an index with."""

    def __init__(self, agent: "Wolpertinger") -> None:
        self.agent = agent

    @property
    def vectors_version(self) -> list[float]:
        """What the vectors of a catalogue depend on: it changes once, when the catalogue is first learned from."""
        known = self.agent.critic.network.space.catalogue
        return torch.cat([known.mean, known.variance]).tolist()

    def vectors(self, catalogue: Catalogue) -> Tensor:
        """Return a vector for every item, [N, E + 1]. Raises InputError where items have features of the moment."""
        if self.agent.spec.items or not self.agent.spec.catalogue:
            raise InputError(
                "an index holds items that are described by the catalogue alone: make the agent from a spec with "
                "catalogue features and without items"
            )
        return self.agent.critic.network.space.vectors(catalogue)

    def queries(self, observation: Observation) -> Tensor:
        """Return a vector for every row, [B, E + 1]: times an item's, the greater the nearer to the proto-action."""
        return query(self.agent.proto_action(observation))


class Wolpertinger(LongTermAgent):
    """Deterministic policy gradient over the space of items."""

    name = "wolpertinger"
    summary_text = "an actor looks somewhere in the space of items, a critic chooses among those nearest to it"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings and make actor, critic and memory."""
        super().build(settings)
        s, spec = self.settings, self.spec
        make = lambda: Actor(spec, s.hidden, s.encoder)  # noqa: E731
        self.actor = Descent(make, s.learning_rate, self.seed, self.device)
        self.product = Gaze(self)

    def make_regression(self, settings: Any) -> Regression[Critic]:
        """Return the critic."""
        s, spec = cast(Settings, settings), self.spec
        make = lambda: Critic(spec, s.hidden, s.embedding, s.encoder)  # noqa: E731
        return Regression(make, s.learning_rate, self.seed, self.device)

    @property
    def critic(self) -> Regression[Critic]:
        """The network that values slates."""
        return cast(Regression[Critic], self.regression)

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return cast(Settings, self._settings)

    # Deciding.

    @torch.no_grad()
    def proto_action(self, observation: Observation) -> Tensor:
        """Return where in the space of items the actor looks, [B, F]."""
        return self.critic.network.space.within(self.actor.network(observation))

    @torch.no_grad()
    def near(self, observation: Observation) -> Tensor:
        """Return the candidates nearest to the proto-action, nearest first, int64 [B, k]; −1 where fewer may be shown.

        All of them, in their order, where k are all; at least as many as a slate holds.
        """
        k, count = max(self.settings.nearest, self.slate_size), observation.item_ids.shape[1]
        if count <= k:
            return torch.where(observation.mask, torch.arange(count, device=observation.item_ids.device), -1)
        close = self.critic.network.space.closeness(observation, self.proto_action(observation))
        return top_k(close, observation.mask, k)

    @torch.no_grad()
    def best(self, observation: Observation, network: Regression[Any]) -> tuple[Tensor, Tensor]:
        """Return a critic's best slate among the nearest candidates, [B, K], and its value, [B], in units of reward."""
        each = self.spec.item_features if self.critic.network.space.gathers(observation) else 1
        most = max(1, DISTANCES_AT_ONCE // (max(1, observation.item_ids.shape[1]) * each))
        if len(observation) > most:
            starts = range(0, len(observation), most)
            slates, values = zip(*(self.best(observation[i : i + most], network) for i in starts), strict=True)
            return torch.cat(slates), torch.cat(values)
        near, critic = self.near(observation), cast(Critic, network.network)
        users, value = critic.users(observation)
        each = critic.advantages(users, critic.space.at(observation, near))
        best = top_k(each, near >= 0, self.slate_size)
        shown = best >= 0
        slate = torch.where(shown, near.gather(1, best.clamp(min=0)), -1)
        total = (each.gather(1, best.clamp(min=0)) * shown).sum(1)
        return slate, network.in_units(value + total / shown.sum(1).clamp(min=1))

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the items of highest A among the candidates nearest to the proto-action."""
        return self.best(observation, self.critic)[0]

    @torch.no_grad()
    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the `value` of every candidate as the only item shown, and its `distance` from the proto-action."""
        critic, rows = self.critic.network, len(observation)
        everything = torch.arange(observation.item_ids.shape[1], device=observation.item_ids.device).expand(rows, -1)
        points, (users, value) = critic.space.at(observation, everything), critic.users(observation)
        distance = torch.linalg.vector_norm(points - self.proto_action(observation).unsqueeze(1), dim=2)
        each = self.critic.in_units(value.unsqueeze(1) + critic.advantages(users, points))
        return {"value": each, "distance": distance}

    # Learning.

    def lessons(self, rollout: Interactions) -> tuple[Tensor, Tensor, Tensor]:
        """Return the slates that were shown [T · B, K], with their returns and weights, [T · B, 1]."""
        self.renew_target()
        positions, targets = rollout.decision.slate, self.returns(rollout).unsqueeze(1)
        return positions, targets, self.weighed(rollout.observation, positions, targets, torch.ones_like(targets))

    def learn(self, rollout: Interactions) -> dict[str, float]:
        """Fit the critic to a rollout, then improve the actor by it.

        Returns `loss` (mean squared error of slates' values, in units of the first returns' mean square), `value` (mean
        return ahead), `promise` (mean A of the proto-actions, in units of reward), `epsilon` and `learning_rate`.
        """
        rate, seen = self.settings.rate_at(self.steps - len(rollout)), rollout.observation
        self.actor.network.learn_scale(seen)
        metrics = super().learn(rollout)
        if seen.item_ids.shape[1] > self.settings.compared:
            seen = seen[torch.randperm(len(seen), generator=self.generator, device=self.device)[::ACTOR_ROWS]]
        return metrics | {"promise": self.improve_actor(seen, rate)}

    def improve_actor(self, observation: Observation, rate: float) -> float:
        """Take passes of minibatch steps of the actor up A(s, μ) / σ − pull · |μ − goal|² / 2, σ and goals as below.

        Returns the mean A of its proto-actions, in units of reward.
        """
        s, critic, total = self.settings, self.critic.network, 0.0
        with torch.no_grad():
            users = critic.users(observation)[0]
            one = torch.ones((), device=users.device)
            goals, deviation = self.goals(observation, users) if s.pull else (None, one)
        for _ in range(s.epochs):
            for part in torch.randperm(len(users), generator=self.generator, device=users.device).chunk(s.minibatches):
                points = critic.space.within(self.actor.network(observation[part]))
                each, slope = uphill(critic, users[part], points.detach())
                loss = -(points * held(slope / deviation)).sum(1)
                if goals is not None:
                    loss = loss + s.pull * (points - goals[part]).square().sum(1) / 2
                self.actor.step(loss.mean(), rate)
                total += float(each.sum())
        return total / (len(users) * s.epochs) * float(torch.where(self.critic.scale > 0, self.critic.scale, 1.0))

    @torch.no_grad()
    def goals(self, observation: Observation, users: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the nearest with candidates at random; return where the best of them is, [B, F], as A has it.

        And σ, the deviation of A over a user's candidates (root mean square of users).
        users: what of them meets items, [B, Z].
        """
        critic, mask, count = self.critic.network, observation.mask, self.settings.compared
        if mask.shape[1] <= count:
            some = torch.where(mask, torch.arange(mask.shape[1], device=mask.device), -1)
        else:
            some = torch.cat([some_candidates(mask, count, self.generator), self.near(observation)], 1)
        points, there = critic.space.at(observation, some), some >= 0
        each = critic.advantages(users, points)
        best = torch.where(there, each, -torch.inf).argmax(1)
        drawn, shown = each[:, :count], there[:, :count]
        number = shown.sum(1, keepdim=True).clamp(min=1)
        apart = (drawn - (drawn * shown).sum(1, keepdim=True) / number) * shown
        deviation = (apart.square().sum(1) / number.squeeze(1)).mean().sqrt().clamp(min=1e-6)
        return points[torch.arange(len(points), device=points.device), best], deviation

    # Saving.

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        return super().tensors() | {f"actor.{key}": value for key, value in self.actor.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load_tensors(tensors)
        self.actor.load_tensors({k.removeprefix("actor."): v for k, v in tensors.items() if k.startswith("actor.")})


def uphill(critic: Critic, users: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return A at points [B, F] for users [B, Z], as [B], and its gradient there, [B, F]."""
    points = points.requires_grad_()
    each = critic.advantages(users, points.unsqueeze(1)).squeeze(1)
    (slope,) = torch.autograd.grad(each.sum(), points)
    return each.detach(), slope


def held(slope: Tensor) -> Tensor:
    """Return slopes [B, F], those longer than 1 shortened to it: far from items they mean little."""
    return slope / slope.square().sum(1, keepdim=True).sqrt().clamp(min=1.0)


def some_candidates(mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw candidates that may be shown, [B, count], each independently of the others; −1 where there are none."""
    left = mask.sum(1, keepdim=True)
    rank = (torch.rand(len(mask), count, generator=generator, device=mask.device) * left).long().clamp(max=left - 1)
    if bool(mask.all()):
        return rank
    return torch.where(left > 0, torch.searchsorted(mask.cumsum(1), rank.clamp(min=0) + 1), -1)
