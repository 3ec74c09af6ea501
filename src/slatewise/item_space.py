"""The space in which items lie, by their features, and how near they are to a point of it."""

import torch
from torch import Tensor, nn

from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.networks import Normaliser


class Space(nn.Module):
    """Where items are: their features, standardised, those of the catalogue as it was first seen.

    F = E + D coordinates; `low` and `high`, [F], are the least and the greatest of what was seen.
    """

    low: Tensor
    high: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.catalogue, self.moment = Normaliser(len(spec.catalogue)), Normaliser(len(spec.items))
        self.width = spec.item_features
        self.register_buffer("low", -torch.ones(self.width))
        self.register_buffer("high", torch.ones(self.width))

    def learn_scale(self, observation: Observation) -> None:
        """Take the catalogue, the first time, and the features of the moment, every time, into the statistics."""
        known = self.catalogue.mean.shape[0]
        if observation.catalogue is not None and not bool(self.catalogue.count):
            self.catalogue.update(observation.catalogue.features)
            there = self.catalogue(observation.catalogue.features)
            self.low[:known], self.high[:known] = there.amin(0), there.amax(0)
        features = observation.items[observation.mask]
        if features.numel():
            self.moment.update(features)
            there = self.moment(features)
            self.low[known:] = torch.minimum(self.low[known:], there.amin(0))
            self.high[known:] = torch.maximum(self.high[known:], there.amax(0))

    def at(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return where candidates are, [B, P, F] from positions [B, P]."""
        known = self.catalogue.mean.shape[0]
        features = observation.features(positions)
        return torch.cat([self.catalogue(features[..., :known]), self.moment(features[..., known:])], -1)

    def within(self, free: Tensor) -> Tensor:
        """Return points [B, F] between twice low and twice high for any numbers; 0 is the mean item."""
        return 2 * free.tanh() * torch.where(free > 0, self.high, -self.low)

    def gathers(self, observation: Observation) -> bool:
        """Whether `closeness` writes out every candidate's features: of a catalogue much larger than the candidates."""
        return observation.catalogue is not None and len(observation.catalogue) > 8 * observation.item_ids.shape[1]

    def closeness(self, observation: Observation, points: Tensor) -> Tensor:
        """Return ⟨x, p⟩ − |x|² / 2 of candidates x and points p [B, F], as [B, C]: the greater, the nearer."""
        known = self.catalogue.mean.shape[0]
        catalogue, close = observation.catalogue, torch.zeros((), device=points.device)
        if catalogue is not None and self.gathers(observation):
            rows = self.catalogue(catalogue.features[observation.item_ids.clamp(min=0)])
            close = torch.einsum("bce,be->bc", rows, points[:, :known]) - rows.square().sum(2) / 2
        elif catalogue is not None:
            close = observation.products(query(points[:, :known]), self.vectors(catalogue))
        if observation.items.shape[2]:
            rows = self.moment(observation.items)
            close = close + torch.einsum("bcd,bd->bc", rows, points[:, known:]) - rows.square().sum(2) / 2
        return close

    def vectors(self, catalogue: Catalogue) -> Tensor:
        """Return x and −|x|² / 2 of every item of a catalogue, [N, E + 1]."""
        rows = self.catalogue(catalogue.features)
        return torch.cat([rows, -rows.square().sum(1, keepdim=True) / 2], 1)


def query(points: Tensor) -> Tensor:
    """Return what, times `Space.vectors`, ranks the items by their distance from points."""
    return nn.functional.pad(points, (0, 1), value=1.0)
