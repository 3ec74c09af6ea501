"""Networks that several agents share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Observation, Spec


class Normaliser(nn.Module):
    """Standardises features by their running mean and variance, merged batch by batch (Chan et al. 1979)."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(features, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, values: Tensor) -> None:
        """Take values [..., features] into the statistics."""
        rows = values.flatten(0, -2)
        if rows.numel() == 0:
            return
        new_variance, new_mean = torch.var_mean(rows.double(), 0, correction=0)
        total = self.count + len(rows)
        share = len(rows) / total
        difference = new_mean - self.mean
        spread = (1 - share) * self.variance + share * new_variance + share * (1 - share) * difference**2
        self.variance.copy_(torch.where(self.count > 0, spread, new_variance))
        self.mean.add_(share * difference)
        self.count.copy_(total)

    def forward(self, values: Tensor) -> Tensor:
        """Return standardised values; a feature that never varied is only centred."""
        deviation = torch.where(self.variance > 1e-10, self.variance, 1.0).sqrt()
        return ((values - self.mean.float()) / deviation.float()).clamp(-10, 10)


Encoder = Literal["flat", "gru"]
MAX_GRADIENT_NORM = 10.0  # gradients are scaled down to this


def perceptron(*sizes: int) -> nn.Sequential:
    """Return linear layers of these sizes, with layer norm and ReLU between them."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(sizes)):
        if i:
            layers += [nn.LayerNorm(before), nn.ReLU()]
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


class HistoryEncoder(nn.Module):
    """Describes a history [B, H, F] in one vector [B, width]: all its features side by side, or the state of a GRU.

    Source of the GRU: Cho et al. 2014, arXiv 1406.1078, equations 5 to 8, run from the oldest interaction to the
    newest. It has no biases, so before the session began its state stays zero, and a longer window says the same of a
    short session; the filled flag, always 1 in an interaction, stands for the bias of the input. Features are
    standardised by interactions that took place alone.
    """

    def __init__(self, spec: Spec, hidden: int, encoder: Encoder) -> None:
        super().__init__()
        self.shape = spec.history, spec.history_features
        self.normaliser = Normaliser(spec.history_features - 1)
        self.width = spec.history * spec.history_features if encoder == "flat" else max(8, hidden // 4)
        self.gru = nn.GRU(spec.history_features, self.width, bias=False, batch_first=True) if encoder == "gru" else None

    def learn_scale(self, history: Tensor) -> None:
        """Take the interactions that took place into the running statistics that standardise the input."""
        self.normaliser.update(history[history[:, :, -1] > 0][:, :-1])

    def forward(self, history: Tensor) -> Tensor:
        """Return the code of each history. Raises InputError for other lengths or features than it was made for."""
        if tuple(history.shape[1:]) != self.shape:
            raise InputError(
                f"the observation's history is {list(history.shape[1:])} (interactions, features), this network was "
                f"made for {list(self.shape)}: make the agent from the spec of what it observes"
            )
        filled = history[:, :, -1:]
        seen = torch.cat([self.normaliser(history[:, :, :-1]) * filled, filled], 2)
        return seen.flatten(1) if self.gru is None else self.gru(seen)[1][0]


class UserReader(nn.Module):
    """What every network knows of a user: features standardised, and beside them the code of the history."""

    def __init__(self, spec: Spec, hidden: int, encoder: Encoder) -> None:
        super().__init__()
        if encoder == "gru" and not spec.history:
            raise InputError(
                "encoder=gru reads a history, and here none is remembered: set history=10 in the world, or where the "
                "log is read, or leave encoder=flat"
            )
        self.user_normaliser = Normaliser(len(spec.user))
        self.history = HistoryEncoder(spec, hidden, encoder) if spec.history else None
        self.known = len(spec.user) + (self.history.width if self.history is not None else 0)
        self.catalogue_features = len(spec.catalogue)

    def learn_scale(self, observation: Observation) -> None:
        """Take the features of a batch into the running statistics that standardise the input."""
        self.user_normaliser.update(observation.user)
        if self.history is not None and observation.history is not None:
            self.history.learn_scale(observation.history)

    def read(self, observation: Observation) -> Tensor:
        """Return what is known of every user, [B, known]. Raises InputError for an observation of another kind."""
        self._check(observation)
        known = self.user_normaliser(observation.user)
        if self.history is not None and observation.history is not None:
            known = torch.cat([known, self.history(observation.history)], 1)
        return known

    def _check(self, observation: Observation) -> None:
        observation.check_users(len(self.user_normaliser.mean))
        shown = observation.catalogue.features.shape[1] if observation.catalogue is not None else 0
        if shown != self.catalogue_features:
            raise InputError(
                f"the observation's catalogue has {shown} features, this network was made for "
                f"{self.catalogue_features}: make the agent from the spec of what it observes"
            )
        if (observation.history is None) != (self.history is None):
            has, made = ("no", "one") if observation.history is None else ("a", "none")
            raise InputError(
                f"the observation has {has} history and this network was made for {made}: make the agent from the spec "
                "of what it observes"
            )


class Valuing(UserReader, ABC):
    """A network that values what was shown."""

    @abstractmethod
    def at(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return the values of what stands at some positions a row, [B, P]: what a regression fits."""


class Tower(Valuing):
    """What networks of users and items begin with: the user's tower, and the scales of what is read.

    outputs: of the user's tower.
    """

    def __init__(self, spec: Spec, hidden: int, outputs: int, encoder: Encoder) -> None:
        super().__init__(spec, hidden, encoder)
        self.user_tower = perceptron(self.known, hidden, hidden, outputs)
        self.item_normaliser = Normaliser(len(spec.items))

    def learn_scale(self, observation: Observation) -> None:
        """Take the features of a batch into the running statistics that standardise the input."""
        super().learn_scale(observation)
        self.item_normaliser.update(observation.items[observation.mask])

    def user_outputs(self, observation: Observation) -> Tensor:
        """Return what the user's tower says, [B, outputs]. Raises InputError for other features than it is made for."""
        return self.user_tower(self.read(observation))


class TwoTower(Tower):
    """Scores every candidate, and no click, for a user: ⟨user, item⟩ / √Z + item bias + state value.

    The item tower is a table over the catalogue's features (embedded once and gathered) plus a network over what
    is particular to the candidates; no click has an embedding of its own. Any number of candidates in any order.
    """

    def __init__(self, spec: Spec, hidden: int, embedding: int, encoder: Encoder = "flat") -> None:
        super().__init__(spec, hidden, embedding + 1, encoder)
        self.width = embedding
        self.no_click = nn.Parameter(torch.zeros(embedding + 1))
        self.catalogue_tower = nn.Linear(len(spec.catalogue), embedding + 1) if spec.catalogue else None
        # Candidates are many and their own features few: a narrow network, whose last layer meets the user first.
        width = max(8, hidden // 4)
        self.item_tower = perceptron(len(spec.items), width, width)[:-1] if spec.items else None
        self.item_output = nn.Linear(width, embedding + 1) if spec.items else None

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return the scores of the candidates [B, C] and of no click [B]."""
        user, value = self._user(observation)
        scores = value.unsqueeze(1)
        user = nn.functional.pad(user, (0, 1), value=1.0)
        if self.catalogue_tower is not None and observation.catalogue is not None:
            scores = scores + self._catalogue_scores(observation, user, observation.catalogue, self.catalogue_tower)
        if self.item_tower is not None and self.item_output is not None:
            items = self.item_tower(self.item_normaliser(observation.items))
            pull = user @ self.item_output.weight
            scores = scores + torch.einsum("bh,bch->bc", pull, items) + (user @ self.item_output.bias).unsqueeze(1)
        return scores.expand(observation.item_ids.shape), user @ self.no_click + value

    @staticmethod
    def _catalogue_scores(observation: Observation, user: Tensor, catalogue: Catalogue, tower: nn.Linear) -> Tensor:
        """Return ⟨user, W features + b⟩, [B, C]; of a large catalogue as ⟨Wᵀ user, features⟩ + ⟨user, b⟩.

        So only the candidates' rows are touched.
        """
        if len(catalogue) <= 8 * observation.item_ids.shape[1]:
            return observation.products(user, tower(catalogue.features))
        return observation.products(user @ tower.weight, catalogue.features) + (user @ tower.bias).unsqueeze(1)

    def vectors(self, catalogue: Catalogue) -> Tensor:
        """Return embedding and bias of every item of a catalogue, [N, Z + 1].

        Raises InputError where items have features of the moment too, which no vector of the catalogue holds.
        """
        if self.catalogue_tower is None or self.item_tower is not None:
            raise InputError(
                "only a network whose items are described by the catalogue alone has vectors of them: make the agent "
                "from a spec with catalogue features and without items"
            )
        return self.catalogue_tower(catalogue.features)

    def queries(self, observation: Observation) -> Tensor:
        """Return what, times `vectors`, ranks the items for a user: the scores but for the value of the state."""
        return nn.functional.pad(self._user(observation)[0], (0, 1), value=1.0)

    def at(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return the scores of some candidates a row, [B, P] from positions [B, P]; −1 stands for no click."""
        user, value = self._user(observation)
        at = positions.clamp(min=0)
        item = torch.zeros(*positions.shape, self.width + 1, device=user.device)
        if self.catalogue_tower is not None and observation.catalogue is not None:
            table = self.catalogue_tower(observation.catalogue.features)
            item = item + table[observation.item_ids.gather(1, at).clamp(min=0)]
        if self.item_tower is not None and self.item_output is not None:
            features = observation.items.gather(1, at.unsqueeze(2).expand(-1, -1, observation.items.shape[2]))
            item = item + self.item_output(self.item_tower(self.item_normaliser(features)))
        item = torch.where((positions >= 0).unsqueeze(2), item, self.no_click)
        return torch.einsum("bz,bpz->bp", user, item[:, :, :-1]) + item[:, :, -1] + value.unsqueeze(1)

    def _user(self, observation: Observation) -> tuple[Tensor, Tensor]:
        output = self.user_outputs(observation)
        return output[:, :-1] / self.width**0.5, output[:, -1]


N = TypeVar("N", bound=nn.Module)
V = TypeVar("V", bound=Valuing)


class Descent(Generic[N]):
    """A network with an optimiser that takes it down losses.

    make: makes the network; its initial weights are fixed by the seed.
    """

    def __init__(self, make: Callable[[], N], learning_rate: float, seed: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: other devices' generators are not ours
            self.network = make().to(device)
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.RAdam(self.network.parameters(), lr=learning_rate)

    def step(self, loss: Tensor, rate: float) -> None:
        """Take one step down a loss, at a share of the learning rate, the gradient held to `MAX_GRADIENT_NORM`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * rate
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and the optimizer's state, by name."""
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": value for key, value in values.items()}
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        weights = {key.removeprefix("network."): v for key, v in tensors.items() if key.startswith("network.")}
        self.network.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".", 2)
                state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


class Regression(Descent[V]):
    """A network fitted to targets of what was shown, by minibatch steps on the squared error.

    Targets are centred and divided by the mean and the root mean square of the first ones, `shift` and `scale`, so that
    no agent needs to know how large rewards are (the deviation would not do: the first targets may be all alike).
    Predictions are in the targets' units.
    """

    def __init__(self, make: Callable[[], V], learning_rate: float, seed: int, device: torch.device) -> None:
        super().__init__(make, learning_rate, seed, device)
        self.shift, self.scale = torch.zeros((), device=device), torch.zeros((), device=device)

    @torch.no_grad()
    def predict_at(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return predictions of what `network.at` values."""
        return self.in_units(self.network.at(observation, positions))

    def in_units(self, predictions: Tensor) -> Tensor:
        """Return what the network says in the targets' units."""
        return predictions * torch.where(self.scale > 0, self.scale, 1.0) + self.shift

    def fit(
        self,
        observation: Observation,
        positions: Tensor,
        targets: Tensor,
        weights: Tensor,
        passes: int,
        minibatches: int,
        rate: float,
        generator: torch.Generator,
    ) -> float:
        """Take passes of minibatch steps; return the mean squared error in units of the scale.

        positions: what `network.at` values, int64 [B, …].  targets: [B, P], P values a row.  weights: [B, P], 0 where
        a target does not count.  rate: share of the learning rate.
        """
        if float(self.scale) == 0:
            self._learn_scale(targets, weights)
        targets = ((targets - self.shift) / torch.where(self.scale > 0, self.scale, 1.0)).float()
        total = 0.0
        for _ in range(passes):
            order = torch.randperm(len(targets), generator=generator, device=targets.device)
            for rows in order.chunk(minibatches):
                errors = self.network.at(observation[rows], positions[rows]) - targets[rows]
                loss = (errors.square() * weights[rows]).sum() / weights[rows].sum().clamp(min=1)
                self.step(loss, rate)
                total += float(loss.detach()) * len(rows) / len(targets)
        return total / passes

    def _learn_scale(self, targets: Tensor, weights: Tensor) -> None:
        count = weights.sum().clamp(min=1)
        mean = (targets * weights).sum() / count
        size = ((targets.square() * weights).sum() / count).sqrt()
        self.shift, self.scale = mean.float(), size.float()

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, shift, scale and the optimizer's state, by name."""
        return super().tensors() | {"shift": self.shift, "scale": self.scale}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load_tensors(tensors)
        self.shift, self.scale = tensors["shift"], tensors["scale"]


class TowerRegression(Regression[TwoTower]):
    """A two-tower network, fitted to targets of single items: positions are candidates, −1 for no click."""

    def __init__(
        self,
        spec: Spec,
        hidden: int,
        embedding: int,
        learning_rate: float,
        seed: int,
        device: torch.device,
        encoder: Encoder = "flat",
    ) -> None:
        super().__init__(lambda: TwoTower(spec, hidden, embedding, encoder), learning_rate, seed, device)

    @torch.no_grad()
    def predict(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return predictions for every candidate [B, C] and for no click [B]."""
        items, no_click = self.network(observation)
        return self.in_units(items), self.in_units(no_click)
