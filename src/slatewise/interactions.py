"""The record that flows through everything: one decision, and what came of it.

Letters for shapes, everywhere: B batch, C candidates, K slots, U user features, D features of a
candidate in this moment, N items of a catalogue, E their features, H remembered interactions,
F features of a remembered interaction, S signals.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from slatewise.batch import Batch, distinct
from slatewise.checks import check_finite, check_rows, check_shape, check_slate, first_true
from slatewise.errors import InputError

Strings = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items that many observations share; held by reference, never sliced or copied with a batch.

    features: float32 [N, E].  ids: N names, or None.  version: a hash of the content.
    """

    features: Tensor
    ids: tuple[str, ...] | None
    version: str

    @staticmethod
    def of(features: Tensor, ids: Sequence[str] | None = None) -> "Catalogue":
        """Make a catalogue from features [N, E] and optional names, and compute its version.

        Raises InputError for features that are not a finite matrix, or ids of another length.
        """
        if features.ndim != 2:
            raise InputError(f"catalogue features have shape {tuple(features.shape)}: expected [N, E]")
        features = features.to(torch.float32).contiguous()
        if not bool(features.isfinite().all()):
            row = int((~features.isfinite()).any(1).nonzero()[0])
            raise InputError(f"catalogue features[{row}] are not finite: replace missing values first")
        if ids is not None and len(ids) != len(features):
            raise InputError(f"catalogue has {len(features)} items but {len(ids)} ids: give one id an item")
        content = hashlib.sha256(str(tuple(features.shape)).encode() + features.cpu().numpy().tobytes())
        content.update("\0".join(ids or ()).encode())
        return Catalogue(features, tuple(ids) if ids is not None else None, content.hexdigest()[:16])

    def __len__(self) -> int:
        return len(self.features)

    def to(self, device: str | torch.device) -> "Catalogue":
        """Return the catalogue with its features on `device`; moved once, for all observations that hold it."""
        copies: dict[str, Catalogue] = self.__dict__.setdefault("_copies", {})
        if str(device) not in copies:
            features = self.features.to(device)
            if features is self.features:
                return self
            copies[str(device)] = replace(self, features=features)
        return copies[str(device)]


@dataclass(frozen=True, eq=False)
class Observation(Batch):
    """What is known before a decision.

    user: float32 [B, U], the user and the moment, running totals of the session included.
    item_ids: int64 [B, C], rows of the catalogue (bare identities without one); −1 is not to be shown.
    items: float32 [B, C, D], what is particular to these candidates now; D may be 0.
    catalogue: the shared items, or None.
    history: float32 [B, H, F] or None, the last H interactions, newest last, zeros before the session
    began; F = E + D + S + 2: features and signals of what was clicked (mean if several), no-click flag,
    filled flag.
    """

    user: Tensor
    item_ids: Tensor
    items: Tensor
    catalogue: Catalogue | None = None
    history: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """Candidates that may be shown, bool [B, C]."""
        return (distinct(self.item_ids) >= 0).expand(self.item_ids.shape)

    def features(self, positions: Tensor) -> Tensor:
        """Return catalogue and item features at candidate `positions` [B, P], as float32 [B, P, E + D].

        Zeros where the position is −1. The one place where the two kinds of features meet.
        """
        at = positions.clamp(min=0)
        parts = [self.items.gather(1, at.unsqueeze(-1).expand(*at.shape, self.items.shape[-1]))]
        if self.catalogue is not None:
            parts.insert(0, embedding(self.item_ids.gather(1, at).clamp(min=0), self.catalogue.features))
        return torch.cat(parts, -1) * (positions >= 0).unsqueeze(-1)

    def products(self, users: Tensor, table: Tensor) -> Tensor:
        """Return the inner products of users [B, Z] with their candidates' rows of a table [N, Z], as [B, C].

        The table belongs to the catalogue, row for row. A small one is multiplied whole and gathered; of a
        large one only the candidates' rows are touched. Masked candidates get the product of row 0.
        """
        at = self.item_ids.clamp(min=0)
        if len(table) <= 8 * at.shape[1]:
            return (users @ table.T).gather(1, at)
        return torch.einsum("bz,bcz->bc", users, table[at])

    def check_users(self, features: int) -> None:
        """Raise InputError unless there are so many features of users, those that a model reads."""
        if self.user.shape[1] != features:
            raise InputError(
                f"the observation has {self.user.shape[1]} user features, and what reads them was made for {features}: "
                "make the agent from the spec of what it observes"
            )

    def dense(self) -> "Observation":
        """Return the same observation with the catalogue's features written out into `items`."""
        everything = torch.arange(self.item_ids.shape[1], device=self.item_ids.device)
        items = self.features(torch.where(self.mask, everything, -1))
        return replace(self, items=items, catalogue=None)

    def to(self, device: str | torch.device) -> "Observation":
        """Return the observation, its catalogue included, on `device`."""
        moved = super().to(device)
        return replace(moved, catalogue=self.catalogue.to(device)) if self.catalogue else moved

    def validate(self, name: str = "observation") -> None:
        """Raise InputError for wrong shapes, dtypes, ids outside the catalogue, or values that are not finite."""
        batch, candidates = check_shape(f"{name}.item_ids", self.item_ids, "BC", torch.int64)
        check_shape(f"{name}.user", self.user, "BU", torch.float32, batch)
        shape = check_shape(f"{name}.items", self.items, "BCD", torch.float32, batch)
        if shape[1] != candidates:
            raise InputError(f"{name}.items has {shape[1]} candidates, {name}.item_ids has {candidates}")
        limit = len(self.catalogue) if self.catalogue else None
        ids = distinct(self.item_ids)
        low, high = ids < -1, ids >= (limit if limit is not None else 2**62)
        if bool((low | high).any()):
            row, column = first_true(low | high)
            allowed = f"−1 to {limit - 1}" if limit is not None else "−1 or more"
            raise InputError(
                f"{name}.item_ids[{row}, {column}] is {int(self.item_ids[row, column])}: allowed are {allowed}"
            )
        empty = ~(ids >= 0).any(1)
        if bool(empty.any()):
            raise InputError(f"{name}.item_ids[{first_true(empty)[0]}] has no candidate to show: drop the row")
        for key, values in (("user", self.user), ("items", self.items), ("history", self.history)):
            if values is not None:
                check_finite(f"{name}.{key}", values)
        if self.history is not None:
            check_shape(f"{name}.history", self.history, "BHF", torch.float32, batch)


@dataclass(frozen=True, eq=False)
class Decision(Batch):
    """A slate, and how likely it was.

    slate: int64 [B, K], positions in the candidate list, no repeats; −1 is a hole (too few candidates).
    propensity: float64 [B, K], probability of each slot's item given the slots before it (1 for a hole);
    the product over slots is the probability of the slate.
    """

    slate: Tensor
    propensity: Tensor

    def validate(self, observation: Observation, name: str = "decision") -> None:
        """Raise InputError for a slate that these candidates do not allow, or an impossible propensity.

        Logged propensities must lie in (0, 1].
        """
        check_slate(self.slate, observation.item_ids, f"{name}.slate")
        check_shape(f"{name}.propensity", self.propensity, "BK", torch.float64, *self.slate.shape)
        bad = ~((self.propensity > 0) & (self.propensity <= 1))
        if bool(bad.any()):
            row, slot = first_true(bad)
            raise InputError(
                f"{name}.propensity[{row}, {slot}] is {float(self.propensity[row, slot]):.6g}: the probability of "
                f"an action that was taken lies in (0, 1]; {int(bad.any(1).sum())} rows are affected, "
                "drop or re-estimate them"
            )
        hole = (self.slate < 0) & (self.propensity != 1)
        if bool(hole.any()):
            row, slot = first_true(hole)
            raise InputError(f"{name}.propensity[{row}, {slot}] belongs to a hole of the slate: it must be 1")


@dataclass(frozen=True, eq=False)
class Response(Batch):
    """What came of a decision.

    clicked: bool [B, K].  signals: float32 [B, K, S], observed per slot, clicked or not (names in the spec).
    reward: float64 [B, K], what each slot earned.  decision_reward: float64 [B], what the decision earned
    and no slot did.  reward_known: bool [B], false where the reward is missing or still awaited.
    """

    clicked: Tensor
    signals: Tensor
    reward: Tensor
    decision_reward: Tensor
    reward_known: Tensor

    @property
    def total_reward(self) -> Tensor:
        """Reward of the whole decision, float64 [B]."""
        return self.reward.sum(1) + self.decision_reward

    def validate(self, decision: Decision, name: str = "response") -> None:
        """Raise InputError for wrong shapes or dtypes, values that are not finite, or holes that earned."""
        batch, slots = decision.slate.shape
        check_shape(f"{name}.clicked", self.clicked, "BK", torch.bool, batch, slots)
        check_shape(f"{name}.signals", self.signals, "BKS", torch.float32, batch, slots)
        check_shape(f"{name}.reward", self.reward, "BK", torch.float64, batch, slots)
        check_shape(f"{name}.decision_reward", self.decision_reward, "B", torch.float64, batch)
        check_shape(f"{name}.reward_known", self.reward_known, "B", torch.bool, batch)
        for key, values in (("reward", self.reward), ("decision_reward", self.decision_reward)):
            known = self.reward_known.view(-1, *[1] * (values.ndim - 1))
            check_finite(f"{name}.{key}", torch.where(known, values, 0.0))
        check_finite(f"{name}.signals", self.signals)
        hole = (decision.slate < 0) & (self.clicked | (self.reward != 0))
        if bool(hole.any()):
            row, slot = first_true(hole)
            raise InputError(f"{name}: slot {slot} of row {row} is a hole, so it cannot be clicked or earn reward")


@dataclass(frozen=True, eq=False)
class Interactions(Batch):
    """Decisions and what came of them: what environments produce, agents learn from and logs keep.

    next_observation: after this interaction and before any restart; None in bandit logs.
    terminated, truncated: bool [B], Gymnasium's meaning; only termination ends the future.
    episode, step: int64 [B], which session (unique within a log) and where in it, from 0.
    user_id: int64 [B]; time: int64 [B], microseconds UTC; decision_id, policy_version: strings [B].
    """

    observation: Observation
    decision: Decision
    response: Response
    next_observation: Observation | None
    terminated: Tensor
    truncated: Tensor
    episode: Tensor
    step: Tensor
    user_id: Tensor | None = None
    time: Tensor | None = None
    decision_id: Strings | None = None
    policy_version: Strings | None = None

    @property
    def done(self) -> Tensor:
        """Whether the session ended here, either way, bool [B]."""
        return self.terminated | self.truncated

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> "Interactions":
        """Make interactions of what `tensors` gave; their observations have no catalogue. Raises TypeError if short."""

        def part(record: str) -> dict[str, Any]:
            return {key.removeprefix(record): value for key, value in tensors.items() if key.startswith(record)}

        following = part("next_observation.")
        columns: dict[str, Any] = {key: value for key, value in tensors.items() if "." not in key}
        return Interactions(
            Observation(**part("observation.")),
            Decision(**part("decision.")),
            Response(**part("response.")),
            Observation(**following) if following else None,
            **columns,
        )

    def on(self, catalogue: Catalogue | None) -> "Interactions":
        """Return the same interactions with another catalogue in their observations."""
        following = self.next_observation
        return replace(
            self,
            observation=replace(self.observation, catalogue=catalogue),
            next_observation=replace(following, catalogue=catalogue) if following is not None else None,
        )

    def validate(self) -> None:
        """Raise InputError, naming row, value and remedy, for anything that is not a valid record."""
        self.observation.validate()
        self.decision.validate(self.observation)
        self.response.validate(self.decision)
        batch = len(self.observation)
        if self.next_observation is not None:
            self.next_observation.validate("next_observation")
            check_rows("next_observation", len(self.next_observation), batch)
        for key in ("terminated", "truncated"):
            check_shape(key, getattr(self, key), "B", torch.bool, batch)
        for key in ("episode", "step", "user_id", "time"):
            if getattr(self, key) is not None:
                check_shape(key, getattr(self, key), "B", torch.int64, batch)
        for key in ("decision_id", "policy_version"):
            if getattr(self, key) is not None:
                check_rows(key, len(getattr(self, key)), batch)
        both = self.terminated & self.truncated
        if bool(both.any()):
            raise InputError(f"row {first_true(both)[0]} is terminated and truncated: keep terminated alone")
        if bool((self.step < 0).any()):
            raise InputError(f"step[{first_true(self.step < 0)[0]}] is negative: steps count from 0")


@dataclass(frozen=True)
class SummaryColumn:
    """A running total of the session that becomes a user feature.

    Adds `scale` × (product of `signals` over a clicked slot, 1 if there are none) for every clicked slot,
    or, with `no_click`, `scale` whenever nothing was clicked.
    """

    name: str
    signals: tuple[str, ...]
    scale: float
    no_click: bool = False


@dataclass(frozen=True)
class Spec:
    """Sizes and names: enough to build an agent. The lengths of the name tuples are U, E, D and S.

    summary: the last columns of `user` that are running totals of the session, for whoever rebuilds them.
    """

    user: tuple[str, ...]
    catalogue: tuple[str, ...]
    items: tuple[str, ...]
    signals: tuple[str, ...]
    candidates: int
    slate_size: int
    history: int = 0
    summary: tuple[SummaryColumn, ...] = ()

    @property
    def item_features(self) -> int:
        """Features of a candidate, E + D."""
        return len(self.catalogue) + len(self.items)

    @property
    def history_features(self) -> int:
        """Features of a remembered interaction, F = E + D + S + 2."""
        return self.item_features + len(self.signals) + 2

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Spec":
        """Build a spec from what `dataclasses.asdict` gave, after JSON."""
        summary = [SummaryColumn(c["name"], tuple(c["signals"]), c["scale"], c["no_click"]) for c in values["summary"]]
        user, catalogue, items, signals = (tuple(values[key]) for key in ("user", "catalogue", "items", "signals"))
        candidates, slate_size, history = (int(values[key]) for key in ("candidates", "slate_size", "history"))
        return Spec(user, catalogue, items, signals, candidates, slate_size, history, tuple(summary))


class Policy(Protocol):
    """What rules and agents share: deciding, and the probability of deciding so."""

    def act(self, observation: Observation, explore: bool = True) -> Decision:
        """Choose a slate for every row; `explore=False` is the greedy policy."""
        ...

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        """Return the probability of each slot's item given the slots before it, float64 [B, K].

        Agrees with `act`; 0 where the policy would never show the item.
        """
        ...


class SlatePolicy(Policy, Protocol):
    """A policy that says how many items it shows: every agent and rule."""

    slate_size: int
