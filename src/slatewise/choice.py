"""Choice models: which items of a slate a user consumes, if any. One object for environment and agent.

`scores(observation)` [B, C] reads what the model needs. A user of a single-choice model consumes at most one item:
`probabilities(scores, mask)` of the shown items, both [B, K], is [B, K + 1], the last column no click; holes get 0.
Under `PositionBased` clicks are independent: it has `click_probabilities(scores, mask)` [B, K] only.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from slatewise.batch import Constant
from slatewise.errors import InputError, unknown_name
from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.plain import NumPy, total


class SingleChoice(Protocol):
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
    """Affinity of a user to an item: the first `columns` user features times as many of the catalogue's."""

    columns: int
    name: ClassVar[str] = "inner-product"

    def __call__(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C]."""
        if observation.catalogue is None:
            raise InputError("this choice model reads catalogue features, but the observation has no catalogue")
        return observation.products(self.queries(observation), self.vectors(observation.catalogue))

    def vectors(self, catalogue: Catalogue) -> Tensor:
        """Return what the affinity reads of every item of a catalogue, [N, columns]."""
        return catalogue.features[:, : self.columns]

    def queries(self, observation: Observation) -> Tensor:
        """Return what, times `vectors`, is the affinity, [B, columns]."""
        return observation.user[:, : self.columns]


@dataclass(frozen=True)
class Bilinear:
    """Affinity uᵀWd + w·d + b, of the kind that `fitting.fit` learns: u the first user features, d all of an item's.

    weights: W, [user features used][E + D].  items: w, [E + D].  bias: b.  Numbers, not tensors, so that the model is
    data: it compares, and saves as JSON.
    """

    weights: tuple[tuple[float, ...], ...]
    items: tuple[float, ...]
    bias: float = 0.0
    name: ClassVar[str] = "bilinear"

    @cached_property
    def _tensors(self) -> tuple[Constant, Constant]:
        weights = torch.tensor(self.weights).view(len(self.weights), len(self.items))
        return Constant(weights), Constant(torch.tensor(self.items))

    def __call__(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C].

        Raises InputError where the observation's features are not as many as the model's.
        """
        catalogue, items = observation.catalogue, observation.items
        shared = catalogue.features.shape[1] if catalogue is not None else 0
        features, known = shared + items.shape[2], (observation.user.shape[1], len(self.weights))
        if features != len(self.items) or known[0] < known[1]:
            raise InputError(
                f"this choice model reads {known[1]} user and {len(self.items)} item features, the observation has "
                f"{known[0]} and {features}: use the world or log it was fitted to, or fit it anew"
            )
        wanted = self._wanted(observation)
        affinity = torch.einsum("bd,bcd->bc", wanted[:, shared:], items) + self.bias
        if catalogue is None:
            return affinity
        return affinity + observation.products(wanted[:, :shared], catalogue.features)

    def vectors(self, catalogue: Catalogue) -> Tensor:
        """Return what describes every item of a catalogue, [N, E]."""
        return catalogue.features

    def queries(self, observation: Observation) -> Tensor:
        """Return what, times `vectors`, is the affinity but for what is the same for all items, [B, E]."""
        return self._wanted(observation)[:, : len(self.items) - observation.items.shape[2]]

    def _wanted(self, observation: Observation) -> Tensor:
        """Return what times an item's features is its affinity, but for the bias, [B, E + D]."""
        weights, bias = (tensor.on(observation.items.device) for tensor in self._tensors)
        return torch.addmm(bias, observation.user[:, : len(self.weights)], weights)


Affinity = InnerProduct | Bilinear


@dataclass(frozen=True)
class Logit:
    """Multinomial logit: item i of the slate is chosen with probability ∝ exp(score), no click ∝ exp(no_click).

    Source: Ie et al. 2019, arXiv 1905.12767, section 4.1 and RecSim's MultinomialLogitChoiceModel.
    """

    affinity: Affinity
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

    affinity: Affinity
    shift: float = 1.0
    no_click: float = 2.0
    name: ClassVar[str] = "proportional"

    def __post_init__(self) -> None:
        if not self.no_click > 0:
            raise InputError(f"no_click={self.no_click}: the weight of no click must be above 0")

    def scores(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C]."""
        return self.affinity(observation)

    def weights(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return unnormalised weights of items [B, C] and of no click [B]."""
        return (scores + self.shift).clamp(min=0.0), torch.as_tensor(self.no_click).to(scores).expand(len(scores))

    def probabilities(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the probability of each shown item, then of no click: [B, K + 1] from [B, K]."""
        weights, no_click = self.weights(scores)
        return _normalised(weights * mask, no_click)

    def plain_probabilities(self, scores: NumPy) -> list[float]:
        """Return `probabilities` of one row of float32 scores [K] without holes: K + 1 numbers, the same to the bit."""
        weights = [*(max(score + self.shift, 0) for score in scores), np.float32(self.no_click)]
        everything = np.float32(sum(map(float, weights)))
        return [float(weight / everything) for weight in weights]


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


@dataclass(frozen=True)
class ExponentialCascade:
    """The user goes down the slate and takes item i with probability attention · scaling · exp(score), if none before.

    Who looks at an item (probability `attention`) takes it with probability scaling · exp(score), at most 1; after
    the last item the user leaves without a click. Source: RecSim's ExponentialCascadeChoiceModel (Ie et al. 2019,
    arXiv 1909.04847), which fails where scaling · exp(score) is above 1.
    """

    affinity: Affinity
    attention: float = 0.65
    scaling: float = 0.05
    name: ClassVar[str] = "exponential-cascade"

    def __post_init__(self) -> None:
        _check_cascade(self.attention, self.scaling)

    def scores(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C]."""
        return self.affinity(observation)

    def click_if_reached(self, scores: Tensor) -> Tensor:
        """Return the probability that an item is taken, given that none before it was; any shape."""
        return self.attention * (self.scaling * scores.exp()).clamp(max=1.0)

    def probabilities(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the probability of each shown item, then of no click: [B, K + 1] from [B, K]."""
        return _cascade(self.click_if_reached(scores) * mask)


@dataclass(frozen=True)
class ProportionalCascade:
    """The user goes down the slate and takes item i with probability attention · scaling · (score + shift).

    As `ExponentialCascade`, with scaling · (score + shift) cut to [0, 1]. Source: RecSim's
    ProportionalCascadeChoiceModel, whose min_normalizer is −shift.
    """

    affinity: Affinity
    attention: float = 0.65
    scaling: float = 0.05
    shift: float = 1.0
    name: ClassVar[str] = "proportional-cascade"

    def __post_init__(self) -> None:
        _check_cascade(self.attention, self.scaling)

    def scores(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C]."""
        return self.affinity(observation)

    def click_if_reached(self, scores: Tensor) -> Tensor:
        """Return the probability that an item is taken, given that none before it was; any shape."""
        return self.attention * (self.scaling * (scores + self.shift)).clamp(min=0.0, max=1.0)

    def probabilities(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the probability of each shown item, then of no click: [B, K + 1] from [B, K]."""
        return _cascade(self.click_if_reached(scores) * mask)


@dataclass(frozen=True)
class PositionBased:
    """Independent clicks: the user looks at position j with probability examination[j], and clicks what attracts.

    P(click on slot j) = examination[j] · σ(score). Several items of a slate may be clicked, so this is no
    `SingleChoice`: a slate is worth the sum of its slots, each the same whatever the others show. Source: the
    position-based model of Richardson et al. 2007, "Predicting clicks".
    """

    affinity: Affinity
    examination: tuple[float, ...]
    name: ClassVar[str] = "position-based"

    def __post_init__(self) -> None:
        for position, probability in enumerate(self.examination):
            if not 0 <= probability <= 1:
                raise InputError(f"examination[{position}]={probability}: a probability lies in [0, 1]")

    def scores(self, observation: Observation) -> Tensor:
        """Return the affinity of every candidate, [B, C]."""
        return self.affinity(observation)

    def click_probabilities(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the probability of a click on each slot, [B, K] from [B, K]; 0 for holes.

        Raises InputError for slates longer than the positions that the model knows.
        """
        slots = scores.shape[1]
        if slots > len(self.examination):
            raise InputError(
                f"examination has {len(self.examination)} positions, but the slates have {slots}: "
                "give one probability a position"
            )
        looked = torch.as_tensor(self.examination).to(scores)[:slots]
        return looked * scores.sigmoid() * mask


Multinomial = Logit | Proportional
Cascade = ExponentialCascade | ProportionalCascade
Choice = SingleChoice | PositionBased
AFFINITIES: dict[str, type[Affinity]] = {"inner-product": InnerProduct, "bilinear": Bilinear}
NAMES: dict[str, type[Multinomial] | type[Cascade] | type[FirstPosition] | type[PositionBased]] = {
    "logit": Logit,
    "proportional": Proportional,
    "exponential-cascade": ExponentialCascade,
    "proportional-cascade": ProportionalCascade,
    "first-position": FirstPosition,
    "position-based": PositionBased,
}


def to_json(choice: Choice) -> dict[str, Any]:
    """Return a choice model as JSON values, its name and its affinity's included."""
    values: dict[str, Any] = {"name": choice.name, **asdict(cast(Any, choice))}
    if "affinity" in values:
        values["affinity"] = {"name": cast(Any, choice).affinity.name, **values["affinity"]}
    return values


def from_json(values: Mapping[str, Any]) -> Choice:
    """Build a choice model from what `to_json` gave. Raises InputError for an unknown name."""
    if values["name"] not in NAMES:
        raise unknown_name("choice model", values["name"], NAMES)
    settings = {key: _frozen(value) for key, value in values.items() if key != "name"}
    if "affinity" in settings:
        settings["affinity"] = _affinity_from_json(cast(Mapping[str, Any], settings["affinity"]))
    return NAMES[values["name"]](**settings)


def _affinity_from_json(values: Mapping[str, Any]) -> Affinity:
    name = values.get("name", "inner-product")  # the only one that was ever saved without a name
    if name not in AFFINITIES:
        raise unknown_name("affinity", name, AFFINITIES)
    return AFFINITIES[name](**{key: _frozen(value) for key, value in values.items() if key != "name"})


def check_features(choice: Choice, spec: Spec) -> None:
    """Raise InputError where a choice model reads other features than the spec has, as far as it knows what it reads.

    Affinities read the first user features, `InnerProduct` as many of the catalogue's, `Bilinear` all of an item's.
    """
    affinity = getattr(choice, "affinity", None)
    if isinstance(affinity, InnerProduct):
        reads, has = (affinity.columns, affinity.columns), (len(spec.user), len(spec.catalogue))
        kind, fits = "catalogue", max(reads) <= min(has)
    elif isinstance(affinity, Bilinear):
        reads, has = (len(affinity.weights), len(affinity.items)), (len(spec.user), spec.item_features)
        kind, fits = "item", reads[0] <= has[0] and reads[1] == has[1]
    else:
        return
    if not fits:
        raise InputError(
            f"choice= reads {reads[0]} user and {reads[1]} {kind} features, the spec has {has[0]} and {has[1]}: give "
            "the choice model of this world or log, or fit it to the same features"
        )


def choose(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a slot from probabilities [B, K + 1] with one uniform a row [B]; K means no click.

    Inverse of the cumulative distribution, so the same uniform gives comparable choices under another slate.
    """
    return (probabilities[:, :-1].cumsum(1) <= uniforms.unsqueeze(1)).sum(1)


def choose_few(choice: SingleChoice, scores: NumPy, uniforms: NumPy) -> list[int]:
    """`choose` for a few rows by a model, in plain numbers: the same slots.

    scores: float32 [B, K], without holes.  uniforms: float32 [B].
    """
    if isinstance(choice, Proportional):
        probabilities = [choice.plain_probabilities(row) for row in scores]
    else:
        shown = torch.from_numpy(scores)
        probabilities = choice.probabilities(shown, torch.ones_like(shown, dtype=torch.bool)).tolist()
    passed = ([np.float32(part) for part in accumulate(row[:-1])] for row in probabilities)
    return list(map(bisect_right, passed, uniforms))


def _normalised(weights: Tensor, no_click: Tensor) -> Tensor:
    everything = torch.cat([weights, no_click.unsqueeze(1)], 1)
    return everything / total(everything).unsqueeze(1)


def _cascade(click_if_reached: Tensor) -> Tensor:
    """Return the probability of each item and of no click, [B, K + 1], of a user who takes the first that pleases."""
    passed = (1 - click_if_reached).cumprod(1)
    reached = torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], 1)
    return torch.cat([click_if_reached * reached, passed[:, -1:]], 1)


def _check_cascade(attention: float, scaling: float) -> None:
    if not 0 <= attention <= 1:
        raise InputError(f"attention={attention}: the probability of looking at an item lies in [0, 1]")
    if not scaling > 0:
        raise InputError(f"scaling={scaling}: the factor of the scores must be above 0")


def _frozen(value: Any) -> Any:
    """Return lists, as JSON has them, as tuples."""
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value
