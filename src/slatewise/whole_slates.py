"""Whole slates as actions: all slates there are, and a network that values them.

Slates are int64 [S, K] positions of candidates, the same for every row of a batch.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from slatewise.errors import InputError
from slatewise.interactions import Observation, Spec
from slatewise.networks import Encoder, Tower, perceptron

MOST_SLATES = 20_000
CHUNK_VALUES = 2**19  # hidden units at a time on a CPU: what its cache holds
DEVICE_VALUES = 2**26  # the same on other devices, which want much to do at once
NEAR = 1e-5  # values this near to the best, in the network's units, are as good


def check_slate_count(candidates: int, k: int, ordered: bool) -> None:
    """Raise InputError where there are more slates of k of so many candidates than can be valued one by one."""
    count = math.perm(candidates, k) if ordered else math.comb(candidates, k)
    if count > MOST_SLATES:
        raise InputError(
            f"{candidates} candidates and {k} slots make {count:,} {'ordered ' if ordered else ''}slates, and deep-q "
            f"values each of them, at most {MOST_SLATES:,}: take slateq, which decomposes them and needs a choice "
            "model, ppo or reinforce, which draw them item by item, or give fewer candidates"
        )


def all_slates(candidates: int, k: int, ordered: bool, device: torch.device) -> Tensor:
    """Return every slate of k of so many candidates, int64 [S, k], in lexicographic order.

    Unordered, each set of candidates once, by ascending position. Raises InputError where there are too many.
    """
    check_slate_count(candidates, k, ordered)
    everything = torch.arange(candidates, device=device)
    slates = torch.empty(1, 0, dtype=torch.int64, device=device)
    for _ in range(k):
        used = slates.unsqueeze(2) == everything if ordered else slates[:, -1:].unsqueeze(2) >= everything
        row, item = (~used.any(1)).nonzero(as_tuple=True)
        slates = torch.cat([slates[row], item.unsqueeze(1)], 1)
    return slates


class SlateTower(Tower):
    """Values every slate for a user: ⟨user, ReLU(user + Σ item codes)⟩ / √Z + bias + state value.

    The code of an item is a linear map, for ordered slates one for each slot, of the product of the item's embedding
    with one of the user's: so what stands before the ReLU can be the sum of the items' attractions to this user, as a
    choice model has them. Codes are made once a candidate, and a slate only adds them up. Any number of candidates.
    """

    def __init__(self, spec: Spec, hidden: int, embedding: int, encoder: Encoder = "flat", ordered: bool = False):
        super().__init__(spec, hidden, 3 * embedding + 1, encoder)
        self.width, self.slots = embedding, spec.slate_size if ordered else 1
        self.catalogue_tower = nn.Linear(len(spec.catalogue), embedding) if spec.catalogue else None
        self.item_tower = perceptron(len(spec.items), max(8, hidden // 4), embedding) if spec.items else None
        self.code = nn.Linear(embedding, self.slots * embedding)

    def _user(self, observation: Observation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what multiplies items, is added to their codes and weighs the sum, [B, Z] each, and the value [B]."""
        gate, shift, pull, value = self.user_outputs(observation).split([*[self.width] * 3, 1], 1)
        return gate, shift, pull / self.width**0.5, value.squeeze(1)

    def _codes(self, observation: Observation, positions: Tensor, gate: Tensor) -> Tensor:
        """Return the codes of some candidates a row for every slot, [B, P, slots, Z]; 0 for a hole."""
        at = positions.clamp(min=0)
        item = torch.zeros(*positions.shape, self.width, device=gate.device)
        if self.catalogue_tower is not None and observation.catalogue is not None:
            table = self.catalogue_tower(observation.catalogue.features)
            item = item + table[observation.item_ids.gather(1, at).clamp(min=0)]
        if self.item_tower is not None:
            features = observation.items.gather(1, at.unsqueeze(2).expand(-1, -1, observation.items.shape[2]))
            item = item + self.item_tower(self.item_normaliser(features))
        codes = self.code(item * gate.unsqueeze(1)) * (positions >= 0).unsqueeze(2)
        return codes.view(*positions.shape, self.slots, self.width)

    def _added(self, observation: Observation, positions: Tensor, gate: Tensor) -> Tensor:
        """Return the codes of the items of a slate a row, each for its slot, [B, K, Z]."""
        codes = self._codes(observation, positions, gate)
        slot = torch.arange(positions.shape[1], device=positions.device)
        return codes[:, slot, slot.clamp(max=self.slots - 1)]

    def at(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return the value of a slate a row, [B, 1] from slates [B, K]; −1 is a hole."""
        gate, shift, pull, value = self._user(observation)
        hidden = (shift + self._added(observation, positions, gate).sum(1)).relu()
        return ((pull * hidden).sum(1) + value).unsqueeze(1)

    @torch.no_grad()
    def shares(self, observation: Observation, positions: Tensor) -> Tensor:
        """Return what each item of a slate adds to its value, [B, K]: its code, weighed where the ReLU lets it pass."""
        gate, shift, pull, _ = self._user(observation)
        added = self._added(observation, positions, gate)
        passes = shift + added.sum(1) > 0
        return torch.einsum("bz,bkz->bk", pull * passes, added)

    @torch.no_grad()
    def of_all(self, observation: Observation, slates: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the values of slates [S, K] for some rows after the other: which rows, and [rows, S]."""
        gate, shift, pull, value = self._user(observation)
        rows, candidates = observation.item_ids.shape
        codes = self._codes(observation, torch.arange(candidates, device=slates.device).expand(rows, -1), gate)
        if slates.shape[1] == 1:  # nothing is added up
            for some in self._parts(rows, slates):
                hidden = (shift[some].unsqueeze(1) + codes[some][:, slates[:, 0], 0]).relu_()
                yield some, torch.einsum("bz,bsz->bs", pull[some], hidden) + value[some].unsqueeze(1)
            return
        holds = slates.new_zeros(len(slates), self.slots, candidates, dtype=codes.dtype)
        for slot, item in enumerate(slates.unbind(1)):
            holds[torch.arange(len(slates), device=slates.device), min(slot, self.slots - 1), item] = 1
        # Units come first and slates last, so that the sum over items is one product of matrices, the fastest there is.
        parts, holds = codes.permute(0, 3, 2, 1).flatten(2), holds.flatten(1).T
        for some in self._parts(rows, slates):
            hidden = torch.baddbmm(shift[some].unsqueeze(2), parts[some], holds.expand(len(parts[some]), -1, -1))
            scores = torch.bmm(pull[some].unsqueeze(1), hidden.relu_()).squeeze(1)
            yield some, scores + value[some].unsqueeze(1)

    def _parts(self, rows: int, slates: Tensor) -> Iterator[slice]:
        """Yield parts of the rows whose hidden units, of all slates, are made at once."""
        limit = CHUNK_VALUES if slates.device.type == "cpu" else DEVICE_VALUES
        size = max(1, limit // (self.width * len(slates)))
        for start in range(0, rows, size):
            yield slice(start, start + size)


def available(mask: Tensor, slates: Tensor) -> Tensor:
    """Return which slates [S, K] hold only candidates that may be shown, bool [B, S]; mask: [B, C]."""
    return mask[:, slates].all(2)


@torch.no_grad()
def best_slates(network: SlateTower, observation: Observation, k: int, ordered: bool) -> tuple[Tensor, Tensor]:
    """Return the slate of highest value for every row, [B, k], and that value [B], in the network's units.

    Rows with fewer candidates than slots have all of them, and holes: unordered, that is one slate, whatever the number
    of other sets of that size. Raises InputError where there are too many slates, or a value is not a number.
    """
    mask = observation.mask
    slate = torch.full((len(mask), k), -1, device=mask.device)
    value = torch.empty(len(mask), device=mask.device)
    sizes = mask.sum(1).clamp(max=k)
    for size in sizes.unique().tolist():
        rows = (sizes == size).nonzero().squeeze(1)
        if size < k and not ordered:
            slate[rows, :size] = mask[rows].byte().argsort(dim=1, descending=True, stable=True)[:, :size]
            value[rows] = _numbers(network.at(observation[rows], slate[rows])).squeeze(1)
            continue
        slates = all_slates(mask.shape[1], size, ordered, mask.device)
        for part, values in network.of_all(observation[rows], slates):
            some = rows[part]
            best, value[some] = _best(values.masked_fill(~available(mask[some], slates), -torch.inf))
            slate[some, :size] = slates[best]
    return slate, value


def by_share(network: SlateTower, observation: Observation, slate: Tensor) -> Tensor:
    """Return slates [B, K] with the item first that adds most to the value, holes last; equals as they stood."""
    shares = network.shares(observation, slate).masked_fill(slate < 0, -torch.inf)
    before = (shares.unsqueeze(1) > shares.unsqueeze(2) + NEAR).sum(2)
    return slate.gather(1, before.argsort(dim=1, stable=True))


def _best(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index and the value of the best of values [B, S]: of those that are as good, the first.

    Candidates that are alike make slates that are, and their values differ in the last digits, differently in batches
    of another size: a policy must show the same slate in any batch.
    """
    best = _numbers(values.amax(1, keepdim=True))
    near = values >= best - NEAR * best.abs().clamp(min=1)
    return near.byte().argmax(1), best.squeeze(1)


def _numbers(best: Tensor) -> Tensor:
    """Return the values of best slates [B, 1]. Raises InputError where one is not a number."""
    if bool(best.isnan().any()):
        row = int(best.isnan().nonzero()[0, 0])
        raise InputError(f"a slate's value in row {row} is NaN: the model that gave it has diverged")
    return best
