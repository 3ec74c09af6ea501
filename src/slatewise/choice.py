"""Choice models: which item of a slate a user consumes, if any. One object for environment and agent.

`scores(observation)` [B, C] reads what the model needs; `probabilities(scores, mask)` of the shown items,
both [B, K], is [B, K + 1], the last column no click; holes get 0.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from slatewise.errors import InputError, unknown_name
from slatewise.interactions import Observation


class Choice(Protocol):
    """A user who consumes at most one item of a slate."""

    name: ClassVar[str]

    def scores(self, observation: Observation) -> Tensor:
        """Return what the model knows of every candidate, [B, C]."""
        ...

    def probabilities(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the probability of each shown item, then of no click: [B, K + 1] from [B, K]."""
        ...


@dataclass(frozen=True)
class InnerProduct:
    """Affinity of a user to an item: the first `columns` user features times the catalogue's features."""

    columns: int

    def __call__(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C]."""
        if observation.catalogue is None:
            raise InputError("this choice model reads catalogue features, but the observation has no catalogue")
        return observation.products(observation.user[:, : self.columns], observation.catalogue.features)


@dataclass(frozen=True)
class Logit:
    """Multinomial logit: item i of the slate is chosen with probability ∝ exp(score), no click ∝ exp(no_click).

    Source: Ie et al. 2019, arXiv 1905.12767, section 4.1 and RecSim's MultinomialLogitChoiceModel.
    """

    affinity: InnerProduct
    no_click: float = 1.0
    name: ClassVar[str] = "logit"

    def scores(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C]."""
        return self.affinity(observation)

    def weights(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return unnormalised weights of items [B, C] and of no click [B]."""
        largest = scores.amax(1).clamp(min=self.no_click)
        return (scores - largest.unsqueeze(1)).exp(), (self.no_click - largest).exp()

    def probabilities(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the probability of each shown item, then of no click: [B, K + 1] from [B, K]."""
        return _normalised(*self.weights(scores.masked_fill(~mask, -torch.inf)))


@dataclass(frozen=True)
class Proportional:
    """Multinomial proportional: item i is chosen with probability ∝ score + shift, no click ∝ no_click.

    Source: RecSim's MultinomialProportionalChoiceModel (Ie et al. 2019, arXiv 1909.04847).
    """

    affinity: InnerProduct
    shift: float = 1.0
    no_click: float = 2.0
    name: ClassVar[str] = "proportional"

    def scores(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C]."""
        return self.affinity(observation)

    def weights(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return unnormalised weights of items [B, C] and of no click [B]."""
        return (scores + self.shift).clamp(min=0.0), scores.new_full((len(scores),), self.no_click)

    def probabilities(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the probability of each shown item, then of no click: [B, K + 1] from [B, K]."""
        weights, no_click = self.weights(scores)
        return _normalised(weights * mask, no_click)


@dataclass(frozen=True)
class FirstPosition:
    """The user always consumes the first item of the slate, whatever it is."""

    name: ClassVar[str] = "first-position"

    def scores(self, observation: Observation) -> Tensor:
        """Return zeros [B, C]: only the position matters."""
        return torch.zeros_like(observation.item_ids, dtype=torch.float32)

    def probabilities(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return 1 for the first slot that is not a hole, [B, K + 1]."""
        shown = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        return (shown & (shown.cumsum(1) == 1)).to(scores.dtype)


Multinomial = Logit | Proportional
NAMES: dict[str, type[Logit] | type[Proportional] | type[FirstPosition]] = {
    "logit": Logit,
    "proportional": Proportional,
    "first-position": FirstPosition,
}


def to_json(choice: Choice) -> dict[str, Any]:
    """Return a choice model as JSON values, its name included."""
    return {"name": choice.name, **asdict(cast(Any, choice))}


def from_json(values: dict[str, Any]) -> Choice:
    """Build a choice model from what `to_json` gave. Raises InputError for an unknown name."""
    if values["name"] not in NAMES:
        raise unknown_name("choice model", values["name"], NAMES)
    settings = {key: value for key, value in values.items() if key != "name"}
    if "affinity" in settings:
        settings["affinity"] = InnerProduct(**settings["affinity"])
    return NAMES[values["name"]](**settings)


def choose(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a slot from probabilities [B, K + 1] with one uniform a row [B]; K means no click.

    Inverse of the cumulative distribution, so the same uniform gives comparable choices under another slate.
    """
    return (probabilities[:, :-1].cumsum(1) <= uniforms.unsqueeze(1)).sum(1)


def _normalised(weights: Tensor, no_click: Tensor) -> Tensor:
    everything = torch.cat([weights, no_click.unsqueeze(1)], 1)
    return everything / everything.sum(1, keepdim=True)
