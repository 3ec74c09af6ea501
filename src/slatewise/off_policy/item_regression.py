"""Ridge and logistic regression with coefficients that all items share, and others that belong to one item.

The features of a decision are z = (1, user) ⊗ (1, item features of this moment), Z of them. Item a has the coefficients
Θ e_a + δ_a: the first part is shared by way of its catalogue features e_a (a constant before them), the second is its
own; both are drawn to 0. That is ridge regression on z ⊗ (e_a, identity of a), solved without ever writing these
features out: sums of z zᵀ and r z an item are enough, because the own coefficients are independent of each other given
the shared ones (block elimination; Henderson's mixed-model equations, Henderson 1975).
"""

from dataclasses import replace

import torch
from torch import Tensor

from slatewise.interactions import Catalogue, Observation, Spec

PENALTY = 1.0
LARGEST = 2000  # coefficients in one dense system; beyond it, coefficients are left out
LARGEST_SUMS = 6_400_000  # numbers in one fold's sums
MOST_NUMBERS = 1000  # items that have coefficients of their own where there is no catalogue
CHUNK_VALUES = 4_000_000  # elements of the largest temporary array


class Design:
    """Which features z and which item number a candidate has, for a catalogue, or for items known by number alone.

    Items have coefficients of their own where there is a catalogue whose sums fit into memory, or where nothing but
    the number tells items apart (numbers beyond 1,000 then share coefficients). Else all item features are in z.

    spec: of the log.  catalogue: what its observations refer to.
    own: whether items have coefficients of their own.  users: whether user features take part.  size: Z.
    table: float64 [N, P], the features by which items share coefficients; [1, 1] where no item has its own.
    """

    def __init__(self, spec: Spec, catalogue: Catalogue | None) -> None:
        users, now = 1 + len(spec.user), 1 + len(spec.items)
        most = LARGEST_SUMS // (users * now) ** 2 if users * now <= LARGEST else 0
        items = min(most, MOST_NUMBERS) if catalogue is None else len(catalogue)
        self.own = 0 < items <= most and (catalogue is not None or not spec.items)
        self.users = self.own or not sees_items_only(spec)
        self.width = now if self.own else 1 + spec.item_features
        self.size = self.width * (users if self.users else 1)
        self.table = torch.ones(items if self.own else 1, 1, dtype=torch.float64)
        if self.own and catalogue is not None and self.size * (1 + len(spec.catalogue)) <= LARGEST:
            self.table = _with_one(catalogue.features)

    def item(self, observation: Observation) -> Tensor:
        """Return the row of the sums that every candidate belongs to, int64 [B, C]."""
        return observation.item_ids.clamp(min=0) % len(self.table)

    def parts(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return the two factors of z, float64: (1, user) [B, V] and (1, item features) [B, C, W]."""
        user = observation.user if self.users else observation.user[:, :0]
        everyone = torch.arange(observation.item_ids.shape[1]).expand(observation.item_ids.shape)
        features = observation.items if self.own else observation.features(everyone)
        return _with_one(user), _with_one(features)

    def features(self, observation: Observation) -> Tensor:
        """Return z of the first candidate, float64 [B, Z]."""
        user, item = self.parts(observation)
        return (user.unsqueeze(2) * item[:, :1]).flatten(1)

    def products(self, observation: Observation, coefficients: Tensor) -> Tensor:
        """Return z · coefficients of the candidate's item, float64 [B, C].  coefficients: [N, Z]."""
        user, features = self.parts(observation)
        cube = coefficients.view(len(coefficients), user.shape[1], self.width)
        if len(cube) == 1:
            return torch.einsum("bw,bcw->bc", user @ cube[0], features)
        numbered = replace(observation, item_ids=self.item(observation))
        columns = (numbered.products(user, cube[:, :, w]) * features[:, :, w] for w in range(self.width))
        return torch.stack(list(columns)).sum(0)


def sees_items_only(spec: Spec) -> bool:
    """Return whether user features would make too many products with those of the items."""
    return (1 + len(spec.user)) * (1 + spec.item_features) > LARGEST


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values.new_ones(*values.shape[:-1], 1), values], -1).double()


class Sums:
    """Σ z zᵀ [J, Z, Z] and Σ target z [J, Z] of J groups of rows, in float64."""

    def __init__(self, groups: int, size: int) -> None:
        self.precision = torch.zeros(groups, size, size, dtype=torch.float64)
        self.moment = torch.zeros(groups, size, dtype=torch.float64)

    def add(self, group: Tensor, rows: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Take rows [n, Z] with a target [n] into the sums of their group, int64 [n]; weights [n] scale z zᵀ alone."""
        self.moment.index_add_(0, group, rows * target.unsqueeze(1))
        _add_squares(self.precision, group, rows if weight is None else rows * weight.sqrt().unsqueeze(1))


def _add_squares(sums: Tensor, group: Tensor, rows: Tensor) -> None:
    """Add x xᵀ of rows [n, Z] to sums [J, Z, Z]: rows of one group fill blocks, whose squares are batched products."""
    block = max(8, min(512, len(rows) // len(sums) // 4))
    order = group.argsort()
    group, rows = group[order], rows[order]
    count = group.bincount(minlength=len(sums))
    blocks = (count + block - 1) // block
    first, start = blocks.cumsum(0) - blocks, count.cumsum(0) - count
    at = first[group] * block + torch.arange(len(rows)) - start[group]
    filled = rows.new_zeros(int(blocks.sum()) * block, rows.shape[1]).index_copy_(0, at, rows)
    whose = torch.arange(len(sums)).repeat_interleave(blocks)
    step = max(1, CHUNK_VALUES // rows.shape[1] ** 2)
    for mine, some in zip(whose.split(step), filled.view(-1, block, rows.shape[1]).split(step), strict=True):
        sums.index_add_(0, mine, some.transpose(1, 2) @ some)


def solve(precision: Tensor, moment: Tensor, design: Design, penalty: float = PENALTY) -> Tensor:
    """Return the coefficients of every item, Θ e_a + δ_a, float64 [N, Z].

    Minimises Σ (r − z · coefficients)² + penalty (|Θ|² + Σ |δ_a|²).  precision, moment: [N, Z, Z], [N, Z], their sums.
    """
    table, size = design.table, design.size
    if not design.own:
        return _cholesky(precision + penalty * _eye(size), moment)
    own = precision + penalty * _eye(size)
    left = penalty * _cholesky(own, precision)  # what the items' own coefficients leave to be explained
    rest = penalty * _cholesky(own, moment)
    width = table.shape[1] * size
    system, right = penalty * _eye(width), (table.T @ rest).flatten()
    step = max(1, CHUNK_VALUES // max(table.shape[1] ** 2, size**2))
    for some, those in zip(table.split(step), left.split(step), strict=True):
        system += torch.einsum("np,nq,nij->piqj", some, some, those).reshape(width, width)
    shared = table @ _cholesky(system, right).view(table.shape[1], size)
    return shared + _cholesky(own, moment - torch.einsum("nij,nj->ni", precision, shared))


def _cholesky(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve for vectors [..., Z] or matrices [..., Z, Z] on the right."""
    vector = right.ndim < matrix.ndim
    solution = torch.cholesky_solve(right.unsqueeze(-1) if vector else right, torch.linalg.cholesky(matrix))
    return solution.squeeze(-1) if vector else solution


def _eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)
