"""Networks that several agents share."""

import torch
from torch import Tensor, nn

from slatewise.interactions import Observation, Spec


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
        if rows.shape[0] < 2 or rows.shape[1] == 0:
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


def perceptron(*sizes: int) -> nn.Sequential:
    """Return linear layers of these sizes, with layer norm and ReLU between them."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
        if i:
            layers += [nn.LayerNorm(before), nn.ReLU()]
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


class TwoTower(nn.Module):
    """Scores every candidate, and no click, for a user: ⟨user, item⟩ / √Z + item bias + state value.

    The item tower is a table over the catalogue's features (embedded once and gathered) plus a network over what
    is particular to the candidates; no click has an embedding of its own. Any number of candidates in any order.
    """

    def __init__(self, spec: Spec, hidden: int, embedding: int) -> None:
        super().__init__()
        self.width = embedding
        self.user_normaliser = Normaliser(len(spec.user) + spec.history * spec.history_features)
        self.user_tower = perceptron(len(self.user_normaliser.mean), hidden, hidden, embedding + 1)
        self.no_click = nn.Parameter(torch.zeros(embedding + 1))
        self.catalogue_tower = nn.Linear(len(spec.catalogue), embedding + 1) if spec.catalogue else None
        self.item_normaliser = Normaliser(len(spec.items))
        self.item_tower = perceptron(len(spec.items), hidden, embedding + 1) if spec.items else None

    def learn_scale(self, observation: Observation) -> None:
        """Take the features of a batch into the running statistics that standardise the input."""
        self.user_normaliser.update(_user_input(observation))
        self.item_normaliser.update(observation.items[observation.mask])

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return the scores of the candidates [B, C] and of no click [B]."""
        user, value = self._user(observation)
        scores = value.unsqueeze(1)
        user = torch.cat([user, torch.ones_like(value).unsqueeze(1)], 1)
        if self.catalogue_tower is not None and observation.catalogue is not None:
            scores = scores + observation.products(user, self.catalogue_tower(observation.catalogue.features))
        if self.item_tower is not None:
            items = self.item_tower(self.item_normaliser(observation.items))
            scores = scores + torch.einsum("bz,bcz->bc", user, items)
        return scores.expand(observation.item_ids.shape), user @ self.no_click + value

    def at(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return the score of one candidate a row, [B] from positions [B]; −1 stands for no click."""
        user, value = self._user(observation)
        at = positions.clamp(min=0).unsqueeze(1)
        item = torch.zeros(len(user), self.width + 1, device=user.device)
        if self.catalogue_tower is not None and observation.catalogue is not None:
            table = self.catalogue_tower(observation.catalogue.features)
            item = item + table[observation.item_ids.gather(1, at).squeeze(1).clamp(min=0)]
        if self.item_tower is not None:
            features = observation.items.gather(1, at.unsqueeze(2).expand(-1, -1, observation.items.shape[2]))
            item = item + self.item_tower(self.item_normaliser(features.squeeze(1)))
        item = torch.where((positions >= 0).unsqueeze(1), item, self.no_click)
        return (user * item[:, :-1]).sum(1) + item[:, -1] + value

    def _user(self, observation: Observation) -> tuple[Tensor, Tensor]:
        output = self.user_tower(self.user_normaliser(_user_input(observation)))
        return output[:, :-1] / self.width**0.5, output[:, -1]


def _user_input(observation: Observation) -> Tensor:
    if observation.history is None:
        return observation.user
    return torch.cat([observation.user, observation.history.flatten(1)], 1)
