"""Policies over whole catalogues: a few candidates are retrieved by inner products, the policy chooses among them."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from slatewise.batch import distinct
from slatewise.errors import InputError
from slatewise.indexes import ExactIndex, Index, MakeIndex, search_shown
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, SlatePolicy


class Product(Protocol):
    """A score that ranks the items of a catalogue by inner products: a two-tower network, or an affinity."""

    def vectors(self, catalogue: Catalogue) -> Tensor:
        """Return a vector for every item, [N, Z]."""
        ...

    def queries(self, observation: Observation) -> Tensor:
        """Return a vector for every row, [B, Z]: times an item's, the score but for what all items share."""
        ...


def products_of(policy: Any) -> tuple[Product, Product | None]:
    """Return the inner products by which an agent judges items: its network's, and its choice model's if it has one.

    An agent that looks for items in another way says so by a `product` of its own, which is all then.
    Raises InputError for a policy without one and without a network whose values are inner products.
    """
    own = getattr(policy, "product", None)
    if own is not None:
        return own, None
    network: Any = getattr(getattr(policy, "regression", None), "network", None)
    if not (hasattr(network, "vectors") and hasattr(network, "queries")):
        raise InputError(
            f"{type(policy).__name__} does not say by which inner products it values items: give value=…, what ranks "
            "items by them (a two-tower network, as the actor.network of reinforce and ppo, or a choice model's "
            "affinity)"
        )
    return network, getattr(getattr(policy, "choice", None), "affinity", None)


def shown_rows(observation: Observation) -> Tensor | None:
    """Return which rows of the catalogue may be shown, bool [1 or B, N], where the candidates are all of it.

    That is: candidate j is row j, or −1 where it may not be shown. None where the candidates are a choice already.
    """
    if observation.catalogue is None or observation.item_ids.shape[1] != len(observation.catalogue):
        return None
    ids = distinct(observation.item_ids)
    shown = ids >= 0
    rows = torch.arange(ids.shape[1], device=ids.device)
    return shown if bool(((ids == rows) | ~shown).all()) else None


@dataclass(frozen=True, eq=False)
class _Built:
    """An index, what it was built from, and the covariance of its vectors [Z, Z]."""

    source: tuple[str, Any]
    index: Index
    covariance: Tensor


class Retrieved:
    """A policy that chooses among a few items of a whole catalogue, retrieved for every row by inner products.

    policy: any agent or rule; it sees observations whose candidates are the retrieved rows.  candidates: how many are
    retrieved for each reason.  index: makes the index from vectors, [N, Z]; `ExactIndex`, or `FaissIndex` where that
    is too slow. It is rebuilt when the catalogue or the policy's `updates` have changed; a product that has a
    `vectors_version` is asked that instead: vectors that learning does not move need one index.
    value, attraction: what ranks items by inner products, by default `products_of(policy)`.

    With a value alone there is one reason to retrieve an item: it is worth most. Who chooses from a slate by
    attraction gives three more: items that attract most, items high in both (in units of their deviations over the
    catalogue), and items that attract least, which fill a slate that is better short.

    Observations whose candidates are not the whole catalogue, or fewer than would be retrieved, pass unchanged.
    Slates are rows of the catalogue. Propensities are those of what was really drawn: 0 for what is not retrieved.
    """

    def __init__(
        self,
        policy: SlatePolicy,
        candidates: int = 100,
        index: MakeIndex = ExactIndex,
        value: Product | None = None,
        attraction: Product | None = None,
    ) -> None:
        self.policy = policy
        self._given = None if value is None else (value, attraction)
        self._products()  # refuses a policy that has none
        self.candidates = candidates
        self.make_index = index
        self._built: _Built | None = None
        if candidates < policy.slate_size:
            raise InputError(
                f"candidates={candidates} are fewer than the {policy.slate_size} items of a slate: retrieve more"
            )

    @property
    def slate_size(self) -> int:
        """Items of a slate."""
        return self.policy.slate_size

    @property
    def device(self) -> torch.device | None:
        """Where the policy is; None if it does not say."""
        return getattr(self.policy, "device", None)

    def act(self, observation: Observation, explore: bool = True) -> Decision:
        """Choose a slate for every row; `explore=False` is the greedy policy."""
        few = self.narrow(observation)
        decision = self.policy.act(few, explore)
        return decision if few is observation else replace(decision, slate=_rows(few, decision.slate))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        """Return the probability of each slot's item given the slots before it, float64 [B, K]."""
        few = self.narrow(observation)
        if few is observation:
            return self.policy.propensity(observation, slate, explore)
        positions = _positions(few, slate)
        known = ((positions >= 0) == (slate >= 0)).cumprod(1)
        return self.policy.propensity(few, positions, explore) * known

    def narrow(self, observation: Observation) -> Observation:
        """Return the observation with what is retrieved as its candidates, in the order of the catalogue.

        Raises InputError for candidates that have features of the moment: give those to retrieved ones.
        """
        shown, most = shown_rows(observation), self.candidates * (1 if self._products()[1] is None else 4)
        if observation.catalogue is None or shown is None or most >= shown.shape[1]:
            return observation
        if observation.items.shape[2]:
            raise InputError(
                f"every candidate of a whole catalogue has {observation.items.shape[2]} features of the moment, which "
                "no index holds: leave them out (items of shape [B, N, 0]), or offer fewer candidates"
            )
        index, queries = self.searched(observation)
        rows = torch.cat([search_shown(index, q, self.candidates, shown) for q in queries], 1)
        rows = rows.sort(1).values
        again = pad(rows[:, 1:] == rows[:, :-1], (1, 0))
        rows = torch.where(again, -1, rows)
        return replace(observation, item_ids=rows, items=observation.items.new_empty(*rows.shape, 0))

    def narrowed(self, interactions: Interactions) -> Interactions:
        """Return interactions as the policy saw them, to be learned from: candidates are what was retrieved.

        What was shown and is not retrieved any more, after an update, stands behind them.
        """
        few = self.narrow(interactions.observation)
        if few is interactions.observation:
            return interactions
        slate = interactions.decision.slate
        missing = (slate >= 0) & (_positions(few, slate) < 0)
        ids = torch.cat([few.item_ids, torch.where(missing, slate, -1)], 1)
        few = replace(few, item_ids=ids, items=few.items.new_empty(*ids.shape, 0))
        after = interactions.next_observation
        return replace(
            interactions,
            observation=few,
            decision=replace(interactions.decision, slate=_positions(few, slate)),
            next_observation=self.narrow(after) if after is not None else None,
        )

    def _products(self) -> tuple[Product, Product | None]:
        """Return what ranks items: asked anew every time, because an agent may learn its choice model."""
        return self._given or products_of(self.policy)

    @torch.no_grad()
    def searched(self, observation: Observation) -> tuple[Index, list[Tensor]]:
        """Return the index, and a query [B, Z] for every reason to retrieve an item: what `recall` asks for."""
        worth, attracts = self._products()
        built, value = self._index(observation), worth.queries(observation)
        if attracts is None:
            return built.index, [value]
        attraction = attracts.queries(observation)
        value, attraction = pad(value, (0, attraction.shape[1])), pad(attraction, (value.shape[1], 0))
        variances = [((q @ built.covariance) * q).sum(1, keepdim=True) for q in (value, attraction)]
        both = [q / v.clamp(min=1e-12).sqrt() for q, v in zip((value, attraction), variances, strict=True)]
        return built.index, [value, attraction, both[0] + both[1], -attraction]

    def _index(self, observation: Observation) -> _Built:
        """Return the index, built anew where the catalogue or the policy has changed."""
        catalogue = observation.catalogue
        assert catalogue is not None  # all of it is shown
        updates, products = getattr(self.policy, "updates", None), [one for one in self._products() if one is not None]
        versions = [getattr(product, "vectors_version", updates) for product in products]
        source = catalogue.version, versions
        if self._built is None or self._built.source != source:
            vectors = torch.cat([product.vectors(catalogue) for product in products], 1)
            width = vectors.shape[1]
            self._built = _Built(source, self.make_index(vectors), vectors.T.cov(correction=0).view(width, width))
        return self._built


def agreement(policy: Retrieved, observation: Observation) -> Tensor:
    """Return the share of the policy's own greedy slate over all candidates that it shows, float64 [B].

    The policy scores the whole catalogue for this, so ask with few rows: [B, N] scores must fit in memory.
    """
    full = policy.policy.act(observation, explore=False).slate
    slate = policy.act(observation, explore=False).slate
    found = ((full.unsqueeze(2) == slate.unsqueeze(1)) & (full >= 0).unsqueeze(2)).any(2)
    return found.sum(1) / (full >= 0).sum(1).clamp(min=1).double()


def _rows(few: Observation, slate: Tensor) -> Tensor:
    """Return rows of the catalogue for positions among retrieved candidates; holes stay."""
    return torch.where(slate >= 0, few.item_ids.gather(1, slate.clamp(min=0)), -1)


def _positions(few: Observation, slate: Tensor) -> Tensor:
    """Return positions among retrieved candidates for rows of the catalogue; −1 for holes and what is not there."""
    same = (few.item_ids.unsqueeze(1) == slate.unsqueeze(2)) & (slate >= 0).unsqueeze(2)
    return torch.where(same.any(2), same.byte().argmax(2), -1)
