"""Evolution strategies: a population of perturbed policies, moved towards the perturbations whose sessions went well.

Source: Salimans et al. 2017, arXiv 1703.03864: its Algorithm 1 with mirrored perturbations, ranks for returns, Adam and
weight decay (section 2). No gradient is propagated: nothing is known of a session but its return.
"""

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from slatewise.agents.base import Agent, ScheduledSettings
from slatewise.agents.replay import check_order, check_rewards
from slatewise.distributions import Softmax
from slatewise.errors import InputError
from slatewise.interactions import Interactions, Observation, Spec
from slatewise.networks import HistoryEncoder, Normaliser
from slatewise.noise import mix
from slatewise.policies import DrawingPolicy
from slatewise.slates import top_k


class Settings(ScheduledSettings):
    """Settings of evolution strategies."""

    sigma: float = Field(1.0, gt=0, description="σ: size of a perturbation, about what it moves the logit of an item")
    learning_rate: float = Field(0.2, gt=0, description="of Adam, at the start; falls to 0 over the planned steps")
    weight_decay: float = Field(0.005, ge=0, description="pull of the parameters to 0, so that σ keeps its size")
    pairs: int = Field(0, ge=0, description="mirrored pairs of sessions to a step; 0 is half as many as users")
    hidden: int = Field(16, ge=0, description="width of the hidden layer of the user's network; 0 leaves it out")


class UserTower(nn.Module):
    """Logits ⟨w(user), item⟩ of candidates, w(user) a network whose parameters may be different ones in every row.

    Inputs are standardised by running statistics that all share, and scaled so that user, item and hidden layer have
    about unit length, however many features they have: parameters of size 1 make logits of size 1. The constant has as
    much weight as all that is known of the user, so half of what parameters move is the same for all users.
    """

    catalogue_deviation: Tensor

    def __init__(self, spec: Spec, hidden: int) -> None:
        super().__init__()
        self.normaliser = Normaliser(len(spec.user))
        self.history = HistoryEncoder(spec, hidden, "flat") if spec.history else None
        self.items = Normaliser(len(spec.items))
        self.register_buffer("catalogue_deviation", torch.ones(len(spec.catalogue)))
        known, self.catalogue_features = len(spec.user), len(spec.catalogue)
        known += self.history.width if self.history is not None else 0
        # Weights of every layer, [inputs, outputs], one after the other in a row of parameters.
        last = spec.item_features
        self.shapes = [(known + 1, hidden), (hidden + 1, last)] if hidden else [(known + 1, last)]
        self.size = sum(inputs * outputs for inputs, outputs in self.shapes)

    def begin(self, generator: torch.Generator) -> Tensor:
        """Return parameters [P] to begin with: all logits are 0, the hidden layer is drawn."""
        parameters = torch.zeros(self.size, device=generator.device)
        for inputs, outputs in self.shapes[:-1]:
            drawn = torch.randn(inputs * outputs, generator=generator, device=generator.device)
            parameters[: inputs * outputs] = drawn
        return parameters

    def learn_scale(self, observation: Observation) -> None:
        """Take the features of a batch into the running statistics that standardise the input."""
        if observation.catalogue is not None and float(self.normaliser.count) == 0:
            spread = observation.catalogue.features.std(0, correction=0)
            self.catalogue_deviation.copy_(torch.where(spread > 1e-5, spread, 1.0))
        self.normaliser.update(observation.user)
        self.items.update(observation.items[observation.mask])
        if self.history is not None and observation.history is not None:
            self.history.learn_scale(observation.history)

    def forward(self, parameters: Tensor, observation: Observation) -> Tensor:
        """Return logits [B, C] for parameters [B, P], or [1, P], the same for all.

        Raises InputError where the observation is not what the spec said.
        """
        self._check(observation)
        known = self.normaliser(observation.user)
        if self.history is not None and observation.history is not None:
            known = torch.cat([known, self.history(observation.history)], 1)
        output = self._output(parameters, known)
        of_catalogue, of_items = output.split([self.catalogue_features, output.shape[1] - self.catalogue_features], 1)
        logits = torch.zeros(observation.item_ids.shape, device=output.device)
        if observation.catalogue is not None and self.catalogue_features:
            of_catalogue = of_catalogue / (self.catalogue_deviation * self.catalogue_features**0.5)
            logits = logits + observation.products(of_catalogue, observation.catalogue.features)
        if of_items.shape[1]:
            items = self.items(observation.items) / of_items.shape[1] ** 0.5
            logits = logits + torch.einsum("bd,bcd->bc", of_items, items)
        return logits

    def _output(self, parameters: Tensor, output: Tensor) -> Tensor:
        """Return w(user), [B, E + D], from what is known of users, [B, inputs]."""
        start = 0
        for layer, (inputs, outputs) in enumerate(self.shapes):
            weights = parameters[:, start : start + inputs * outputs].view(-1, inputs, outputs)
            start += inputs * outputs
            output = with_constant(output.tanh() if layer else output)
            one = len(weights) == 1
            output = output @ weights[0] if one else torch.bmm(output.unsqueeze(1), weights).squeeze(1)
        return output

    def _check(self, observation: Observation) -> None:
        shown = observation.catalogue.features.shape[1] if observation.catalogue is not None else 0
        found = observation.user.shape[1], shown, observation.items.shape[2], observation.history is not None
        made = len(self.normaliser.mean), self.catalogue_features, len(self.items.mean), self.history is not None
        if found != made:
            has, wants = (
                f"{user} user, {catalogue} catalogue and {items} item features and {'a' if history else 'no'} history"
                for user, catalogue, items, history in (found, made)
            )
            raise InputError(
                f"the observation has {has}, this agent was made for {wants}: make it from the spec of what it observes"
            )


def with_constant(values: Tensor) -> Tensor:
    """Append a constant to [B, n]; it has as much weight as all the values together, and all of it if there are none.

    Values of variance 1 get unit length on average.
    """
    count = values.shape[1]
    share = 0.5 if count else 1.0
    scaled = values * (share / max(1, count)) ** 0.5
    return torch.cat([scaled, torch.full((len(values), 1), share**0.5, device=values.device)], 1)


class Population:
    """Perturbed policies, one a user: which sessions they play, and the mirrored pairs of sessions that have ended.

    A user draws a perturbation, plays a session with it added to the mean and the next with it taken away from the same
    mean; then it draws another. Every session that is begun counts once, with its pair, in the step after the pair has
    ended: short ones are not preferred, long ones count later. Nobody waits for the last of a generation.
    """

    def __init__(self, sigma: float, generator: torch.Generator) -> None:
        self.sigma, self.generator = sigma, generator
        self.state: dict[str, Tensor] = {}  # of users, one row each; empty until they are known
        self.pairs: list[tuple[Tensor, Tensor]] = []  # perturbations [n, P] and returns [n, 2] of pairs that have ended

    @property
    def users(self) -> int:
        """How many users play, 0 before they are known."""
        return len(self.state["done"]) if self.state else 0

    def members(self, observation: Observation) -> Tensor | None:
        """Return the parameters [B, P] that the users play with, if these are their observations, else None.

        They are if there is one row a user, and those whose sessions go on see what was to be seen next.
        """
        s = self.state
        if self.users != len(observation) or not self.users:
            return None
        known = s["done"] | (fingerprint(observation) == s["next"])
        return s["members"] if bool(known.all()) else None

    def add(self, interactions: Interactions, following: Observation, mean: Tensor) -> None:
        """Take one vector step. following: the observation after it.  mean: parameters [P].

        Raises InputError where rows do not go on with the sessions of the step before, unless it is with other users,
        or all sessions are begun anew: then the sessions under way are forgotten.
        """
        if self._are_others(interactions):
            self.state = self._users(interactions, mean)
        else:
            check_order(self.state["episode"], self.state["step"], self.state["done"], interactions)
        s = self.state
        s["earned"] += interactions.response.total_reward
        s |= {"episode": interactions.episode, "step": interactions.step, "done": interactions.done}
        s["next"] = fingerprint(following)
        rows = interactions.done.nonzero().squeeze(1)
        if len(rows):
            self._end(rows, mean)

    def take(self) -> tuple[Tensor, Tensor]:
        """Return perturbations [n, P] and returns, float64 [n, 2], of all pairs that have ended, and forget them."""
        (noise, returns), self.pairs = self.ended(), []
        return noise, returns

    def ended(self) -> tuple[Tensor, Tensor]:
        """Return the same and keep them."""
        noise, returns = zip(*self.pairs, strict=True)
        return torch.cat(noise), torch.cat(returns)

    def centre(self, mean: Tensor) -> None:
        """Give the pairs whose first session is still to begin another mean, [P]."""
        if self.state:
            self._perturb((self.state["done"] & (self.state["sign"] > 0)).nonzero().squeeze(1), mean)

    def _are_others(self, interactions: Interactions) -> bool:
        s = self.state
        if self.users != len(interactions):
            return True
        follow = s["done"] & (s["episode"] != interactions.episode)
        return bool((interactions.step == 0).all()) and not bool(follow.all())

    def _users(self, interactions: Interactions, mean: Tensor) -> dict[str, Tensor]:
        """Return the state of new users; a session counts if it is seen from its beginning."""
        count, device = len(interactions), mean.device
        nothing = torch.zeros(count, dtype=torch.float64, device=device)
        noise = torch.randn(count, len(mean), generator=self.generator, device=device)
        return {
            "noise": noise,
            "centre": mean.expand(count, -1).clone(),
            "members": mean + self.sigma * noise,
            "sign": torch.ones(count, device=device),
            "counts": interactions.step == 0,
            "earned": nothing,
            "first": nothing.clone(),
        }

    def _end(self, rows: Tensor, mean: Tensor) -> None:
        """Take the returns of sessions that ended; their users go on with the mirrored one, or begin another pair."""
        s = self.state
        whole, mirrored = s["counts"][rows], s["sign"][rows] < 0
        first, second, begun = rows[whole & ~mirrored], rows[whole & mirrored], rows[~whole | mirrored]
        s["first"][first] = s["earned"][first]
        if len(second):
            self.pairs.append((s["noise"][second], torch.stack([s["first"][second], s["earned"][second]], 1)))
        s["earned"][rows] = 0
        s["counts"][rows] = True
        s["sign"][first] = -1
        s["members"][first] = s["centre"][first] - self.sigma * s["noise"][first]
        s["sign"][begun] = 1
        shape = len(begun), len(mean)
        s["noise"][begun] = torch.randn(*shape, generator=self.generator, device=mean.device)
        self._perturb(begun, mean)

    def _perturb(self, rows: Tensor, mean: Tensor) -> None:
        self.state["centre"][rows] = mean
        self.state["members"][rows] = mean + self.sigma * self.state["noise"][rows]

    def tensors(self) -> dict[str, Tensor]:
        """Return the sessions under way and the pairs that have ended, by name."""
        tensors = {f"users.{key}": value for key, value in self.state.items()}
        if self.pairs:
            tensors["pairs.noise"], tensors["pairs.returns"] = self.ended()
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        users = {key: value for key, value in tensors.items() if key.startswith("users.")}
        self.state = {key.removeprefix("users."): value.clone() for key, value in users.items()}
        self.pairs = [(tensors["pairs.noise"], tensors["pairs.returns"])] if "pairs.noise" in tensors else []


def fingerprint(observation: Observation) -> Tensor:
    """Return a hash of every row, int64 [B]: of its features and candidates, in their order."""
    parts = [observation.user, observation.items.flatten(1)]
    parts += [observation.history.flatten(1)] if observation.history is not None else []
    bits = (torch.cat(parts, 1) + 0.0).contiguous().view(torch.int32).long()  # + 0.0: −0 is 0
    words = torch.cat([bits, observation.item_ids], 1)
    return (words * mix(torch.arange(words.shape[1], device=words.device))).sum(1)  # modulo 2⁶⁴


def centred_ranks(returns: Tensor) -> Tensor:
    """Return ranks among all values, from −½ of the lowest to ½ of the highest; equals share their mean rank."""
    values = returns.flatten()
    order = values.sort().values
    rank = (torch.searchsorted(order, values) + torch.searchsorted(order, values, right=True) - 1) / 2
    return (rank.double() / max(1, len(values) - 1) - 0.5).view(returns.shape)


def gradient(noise: Tensor, fitness: Tensor, sigma: float) -> Tensor:
    """Estimate the gradient of the expected fitness at the mean, Σ (F⁺ − F⁻) ε / (2 n σ), [P].

    noise: ε of n mirrored pairs, [n, P].  fitness: F⁺ and F⁻ of the mean plus and minus σ ε, [n, 2].
    """
    weight = (fitness[:, 0] - fitness[:, 1]).to(noise.dtype)
    return weight @ noise / (2 * len(noise) * sigma)


class EvolutionStrategies(DrawingPolicy, Agent):
    """A population of policies, one a user, judged by whole sessions.

    The policy is a softmax over candidates, slot after slot without replacement; without exploration the items of
    highest logit under the mean parameters. With exploration every user of the world that it learns in has parameters
    of its own for a session, and is shown what their softmax draws.

    Propensities are of that draw, **given the user's parameters**. Those are drawn before the session and depend on
    nothing that happens in it, so importance weights made of these propensities are unbiased. Whoever asks about
    another batch than the users' next one is answered by the softmax of the mean, and would be shown its draw: on
    every batch `act` and `propensity` agree. The users' batch is known by its content, a row a user, each going on
    with what came before; where all sessions have just ended, by its number of rows. The first decision of all is the
    mean's: before it nobody knows how many users there are.
    """

    name = "evolution-strategies"
    summary_text = "a population of perturbed policies judged by whole sessions, without gradients or a choice model"
    Settings = Settings
    needs_item_features = True

    def build(self, settings: Any) -> None:
        """Take the settings and make the mean policy."""
        self._settings = s = cast(Settings, settings)
        self.tower = UserTower(self.spec, s.hidden).to(self.device)
        self.mean = self.tower.begin(self.generator)
        self.optimizer = torch.optim.Adam([self.mean], s.learning_rate, weight_decay=s.weight_decay)
        self.population = Population(s.sigma, self.generator)
        self._learned_at = 0  # steps at the last update

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return self._settings

    def plan(self, steps: int) -> None:
        """Take the length of the run that schedules end with, in user-steps."""
        self._settings = self._settings.model_copy(update={"planned_steps": steps})

    def distribution(self, observation: Observation) -> Softmax:
        """Return the softmax of the users' own parameters if they are who observes, else that of the mean."""
        members = self.population.members(observation)
        return self.policy(self.mean.unsqueeze(0) if members is None else members, observation)

    def policy(self, parameters: Tensor, observation: Observation) -> Softmax:
        """Return the softmax over slates for parameters [B, P], or [1, P], the same for all."""
        return Softmax(self.tower(parameters, observation), observation.mask, self.slate_size)

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - it draws to explore
        """Return the items of highest logit under the mean."""
        return top_k(self.tower(self.mean.unsqueeze(0), observation), observation.mask, self.slate_size)

    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the `probability` of every candidate in the first slot under the mean, [B, C]."""
        return {"probability": self.policy(self.mean.unsqueeze(0), observation).first()}

    def observe(self, interactions: Interactions) -> None:
        """Take one vector step of its own decisions into the sessions under way.

        Raises InputError where something is missing, or rows do not go on with the sessions of the step before.
        """
        if interactions.next_observation is None:
            raise InputError(
                f"{self.name} knows its sessions by what comes next, and these interactions have no next_observation"
            )
        check_rewards(interactions, self.name)
        self.population.add(interactions, interactions.next_observation, self.mean)
        self.tower.learn_scale(interactions.observation)
        self.steps += len(interactions)

    def update(self) -> dict[str, float] | None:
        """Take one step once enough pairs have ended, else return None.

        Returns `fitness` and `fitness_deviation` (of the returns of its sessions), `pairs`, `gradient` and `size` (root
        mean square of the estimate and of the parameters), and `learning_rate`.
        """
        s, population = self._settings, self.population
        ended = sum(len(noise) for noise, _ in population.pairs)
        if ended < max(1, s.pairs or population.users // 2):
            return None
        noise, returns = population.take()
        estimate = gradient(noise, centred_ranks(returns), s.sigma)
        rate = s.learning_rate * s.rate_at(self._learned_at)
        self.optimizer.param_groups[0]["lr"] = rate
        self.mean.grad = -estimate
        self.optimizer.step()
        population.centre(self.mean)
        self._learned_at = self.steps
        self.updates += 1
        spread = returns.std(correction=0)
        sizes = {"gradient": estimate.square().mean().sqrt(), "size": self.mean.square().mean().sqrt()}
        metrics = {"fitness": returns.mean(), "fitness_deviation": spread, **sizes}
        return {"pairs": ended, "learning_rate": rate} | {key: float(value) for key, value in metrics.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name."""
        tensors = {f"tower.{key}": value for key, value in self.tower.state_dict().items()}
        tensors |= {f"optimizer.{key}": value for key, value in self.optimizer.state[self.mean].items()}
        return tensors | {"mean": self.mean, "learned_at": torch.tensor(self._learned_at)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        parts: dict[str, dict[str, Tensor]] = {"tower": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            parts.get(part, {})[key] = value
        self.tower.load_state_dict(parts["tower"])
        self.mean.copy_(tensors["mean"])
        state = {0: parts["optimizer"]} if parts["optimizer"] else {}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self._learned_at = int(tensors["learned_at"])

    def memory_tensors(self) -> dict[str, Tensor]:
        """Return the sessions under way: training goes on with them, and who is served is nobody of the population."""
        return {"begun": torch.tensor(self.population.users)} | self.population.tensors()

    def load_memory_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `memory_tensors` gave."""
        self.population.load_tensors(tensors)
