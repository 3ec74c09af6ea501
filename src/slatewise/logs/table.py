"""From a table of decisions, clicks or impressions to a log."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from slatewise.arrow import arrow_columns
from slatewise.errors import InputError
from slatewise.features import Column, Features, FeatureSchema, column_name
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.logs.log import Log
from slatewise.logs.propensities import estimate
from slatewise.logs.table_columns import read_file, texts
from slatewise.logs.table_decisions import Decisions, Items, decide
from slatewise.logs.table_mapping import TableMapping, read_mapping
from slatewise.logs.table_moments import Moments
from slatewise.logs.table_outcomes import Outcomes, logged_propensities, uniform_propensities
from slatewise.logs.writer import LogWriter, check_target

Array = np.ndarray[Any, Any]
BLOCK_ROWS: Final = 65_536
BLOCK_VALUES: Final = 16_000_000  # of candidates and their features in memory


def from_table(
    table: Any,
    out: str | Path,
    mapping: TableMapping | Mapping[str, Any] | str | Path,
    items: Any = None,
    features: FeatureSchema | None = None,
    overwrite: bool = False,
) -> Log:
    """Write a table of decisions to `out` as a log, and return it.

    table: Arrow table, pandas or polars frame, list of dicts, or the path of a .parquet or .csv file. The columns that
    are read must fit into memory; what they become is written in blocks.  mapping: which column is what, as
    `TableMapping`, a dict of its fields, or the path of a TOML file with them.  items: the same for a table of items.
    Its rows become the catalogue; without one the catalogue is the ids that occur.  features: the schema of another log
    (`log.features`), so that both have the same features; without one it is fitted to this table.

    A decision is a row; with `position` the rows of a decision are the slots of its slate; with `shown` they are its
    candidates. Without candidates everything in the catalogue could have been shown. `log.source["report"]` counts
    what was read. Features of the user must be what was known when it was decided: nothing here can check that.

    Raises InputError, before anything is written, naming the column, the rows (from 0), how many, and what to do.
    """
    settings = read_mapping(mapping)
    check_target(Path(out), overwrite)
    columns = _columns(table, settings)
    if features is not None:
        _check_features(features, settings)
    catalogue, of_items, known = _items(items, settings, features)
    decisions, known = decide(settings, columns, known)
    schema = _schema(settings, columns, decisions, of_items, features)
    source = _Source.of(settings, columns, decisions, known, catalogue, schema)
    propensity, how = source.propensities(columns)
    about = {
        "kind": "table",
        "mapping": settings.model_dump(mode="json", exclude_none=True),
        "report": source.report(),
    }
    with LogWriter(out, source.spec, about, overwrite, features=source.schema, propensities=how) as writer:
        for block in source.blocks():
            writer.add(source.interactions(block, propensity[block]))
    return Log(out)


def _columns(table: Any, mapping: TableMapping) -> dict[str, Any]:
    ids = (mapping.item, mapping.decision, mapping.session, mapping.policy, mapping.candidates)
    if isinstance(table, str | Path):
        table = read_file(Path(table), mapping.columns, [name for name in ids if name])
    columns = arrow_columns(table, mapping.columns)
    if len(columns[mapping.item]) == 0:
        raise InputError("the table has no rows: give one a decision")
    return columns


def _check_features(features: FeatureSchema, mapping: TableMapping) -> None:
    groups = {
        "user_features": (features.user, mapping.user_features),
        "item_features": (features.catalogue, mapping.item_features),
        "candidate_features": (features.items, mapping.candidate_features),
    }
    for name, (fitted, columns) in groups.items():
        known, wanted = [column.column for column in fitted.columns], [column_name(c) for c in columns]
        if known != wanted:
            raise InputError(f"{name} are {wanted}, the given schema was fitted to {known}: name the same columns")


def _items(
    items: Any, mapping: TableMapping, fitted: FeatureSchema | None
) -> tuple[Catalogue | None, Features, Items | None]:
    """Return the catalogue of a table of items, how it was encoded, and its identities; None without a table."""
    if items is None:
        if mapping.item_features or mapping.item_id:
            raise InputError("item_features and item_id are columns of the item table: give one (items=, --items)")
        return None, Features(), None
    name = mapping.item_columns[0]
    if isinstance(items, str | Path):
        items = read_file(Path(items), mapping.item_columns, [name])
    known = Items.of_table(name, arrow_columns(items, [name], "the item table")[name])
    features = fitted.catalogue if fitted else Features.fit(items, mapping.item_features, "the item table")
    return Catalogue.of(features.encode(items, "the item table"), known.ids.to_pylist()), features, known


def _schema(
    mapping: TableMapping,
    columns: dict[str, Any],
    decisions: Decisions,
    of_items: Features,
    given: FeatureSchema | None,
) -> FeatureSchema:
    """Fit the features of users and candidates, or check that their columns fit the schema that is given."""
    users, own = pa.table(_named(columns, mapping.user_features)), pa.table(_named(columns, mapping.candidate_features))
    if mapping.candidates is not None and decisions.candidates is not None:
        own = decisions.candidates.features
    if given is not None:  # fitting anew looks at every value, and names the rows of the table
        _fit(mapping, users, given.user.columns, own, given.items.columns)
        return given
    fitted = _fit(mapping, users, mapping.user_features, own, mapping.candidate_features)
    return FeatureSchema(user=fitted[0], catalogue=of_items, items=fitted[1])


def _fit(
    mapping: TableMapping, users: Any, of_users: Sequence[str | Column], own: Any, of_own: Sequence[str | Column]
) -> tuple[Features, Features]:
    user = Features.fit(users, of_users)
    try:
        return user, Features.fit(own, of_own)
    except InputError as error:
        if mapping.candidates is None:
            raise
        raise InputError(f"rows are the candidates of all decisions, one after the other: {error}") from None


def _named(columns: dict[str, Any], wanted: Sequence[str | Column]) -> dict[str, Any]:
    return {name: columns[name] for name in map(column_name, wanted)}


@dataclass(frozen=True, eq=False)
class _Source:
    """Everything that a table said. Arrays are by decision, in the order of the log; `users` has the table's rows."""

    mapping: TableMapping
    schema: FeatureSchema
    catalogue: Catalogue
    decisions: Decisions
    moments: Moments
    outcomes: Outcomes
    users: Any
    names: dict[str, Any]

    @staticmethod
    def of(
        mapping: TableMapping,
        columns: dict[str, Any],
        decisions: Decisions,
        items: Items,
        catalogue: Catalogue | None,
        schema: FeatureSchema,
    ) -> "_Source":
        moments = Moments.of(mapping, columns, decisions.rows)
        decisions = decisions.ordered(moments.order)
        first = pa.array(decisions.first)
        users = pa.table(_named(columns, mapping.user_features))
        names = {"decision_id": mapping.decision, "policy_version": mapping.policy}
        return _Source(
            mapping,
            schema,
            catalogue or Catalogue.of(torch.zeros(len(items), 0), items.ids.to_pylist()),
            decisions,
            moments,
            Outcomes.of(mapping, columns, decisions.rows),
            users,
            {key: texts(name, columns[name]).take(first) for key, name in names.items() if name},
        )

    @property
    def spec(self) -> Spec:
        own, schema = self.decisions.candidates, self.schema
        candidates = len(self.catalogue) if own is None else int(own.lengths.max())
        features = (schema.user.names, schema.catalogue.names, schema.items.names)
        return Spec(*features, self.mapping.all_signals, candidates, self.decisions.rows.shape[1])

    def choices(self) -> Array:
        """Return how many candidates every decision has, int64 [D]."""
        own = self.decisions.candidates
        return np.full(len(self.decisions.rows), len(self.catalogue)) if own is None else own.lengths

    def propensities(self, columns: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the propensity of every slot, float64 [D, K], and where it comes from."""
        kind, rows = self.mapping.propensities, self.decisions.rows
        if kind == "estimate":
            moments = self.moments
            return estimate(self.observe, torch.from_numpy(moments.episode if moments.user is None else moments.user))
        if kind == "uniform":
            values = uniform_propensities(self.choices(), rows)
            return torch.from_numpy(values), {"kind": "logged", "how": "uniform, as the mapping says"}
        if kind == "unknown":
            return torch.ones(rows.shape, dtype=torch.float64), {"kind": "unknown"}
        name = str(self.mapping.propensity)
        return torch.from_numpy(logged_propensities(name, columns[name], rows)), {"kind": "logged", "column": name}

    def blocks(self) -> Iterator[Array]:
        """Yield the numbers of decisions, in blocks of bounded memory."""
        spec = self.spec
        listed = 0 if self.decisions.candidates is None else spec.candidates * (1 + len(spec.items))
        step = max(1, min(BLOCK_ROWS, BLOCK_VALUES // (1 + len(spec.user) + listed)))
        count = len(self.decisions.rows)
        return (np.arange(start, min(start + step, count)) for start in range(0, count, step))

    def observe(self, at: Array) -> tuple[Observation, Tensor]:
        """Return the observations of decisions, and their slates."""
        user = _encoded(self.schema.user, self.users, self.decisions.first[at])
        shown, own = self.decisions.items[at], self.decisions.candidates
        spec = self.spec
        if own is None:
            item_ids = torch.arange(spec.candidates).expand(len(at), spec.candidates)
            items = torch.zeros(len(at), spec.candidates, 0)
            return Observation(user, item_ids, items, self.catalogue), torch.from_numpy(shown)
        lengths = own.lengths[at]
        row = np.repeat(np.arange(len(at)), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        flat = own.starts[at][row] + place
        ids = np.full((len(at), spec.candidates), -1)
        ids[row, place] = own.items[flat]
        items = torch.zeros(len(at), spec.candidates, len(spec.items))
        items[row, place] = _encoded(self.schema.items, own.features, flat)
        slate = np.stack([np.where(s >= 0, (ids == s[:, None]).argmax(1), -1) for s in shown.T], 1)
        return Observation(user, torch.from_numpy(ids), items, self.catalogue), torch.from_numpy(slate)

    def interactions(self, at: Array, propensity: Tensor) -> Interactions:
        """Return decisions with all that is known about them. In sessions they know the next observation."""
        outcomes, moments = self.outcomes, self.moments
        last = torch.from_numpy(moments.last[at])
        following = None
        if self.mapping.session is not None or self.mapping.session_gap is not None:
            ahead = at + ~moments.last[at]
            both, slate = self.observe(np.append(at, ahead[-1]))
            observation, slate = both[:-1], slate[:-1]
            following = both[torch.from_numpy(ahead - at[0])]
        else:
            observation, slate = self.observe(at)
        return Interactions(
            observation,
            Decision(slate, propensity),
            Response(
                torch.from_numpy(outcomes.clicked[at]),
                torch.from_numpy(outcomes.signals[at]),
                torch.from_numpy(outcomes.reward[at]),
                torch.zeros(len(at), dtype=torch.float64),
                torch.from_numpy(outcomes.known[at]),
            ),
            following,
            last,
            torch.zeros_like(last),
            torch.from_numpy(moments.episode[at]),
            torch.from_numpy(moments.step[at]),
            None if moments.user is None else torch.from_numpy(moments.user[at]),
            None if moments.time is None else torch.from_numpy(moments.time[at]),
            **{name: text.take(pa.array(at)).to_numpy(zero_copy_only=False) for name, text in self.names.items()},
        )

    def report(self) -> dict[str, Any]:
        """Count what was read."""
        rows, moments, schema = self.decisions.rows, self.moments, self.schema
        short = (rows < 0).any(1) & ((rows >= 0).sum(1) < self.choices())
        collisions = schema.user.collisions | schema.catalogue.collisions | schema.items.collisions
        return {
            "decisions": len(rows),
            "items": len(self.catalogue),
            "users": None if moments.user is None else len(np.unique(moments.user)),
            "sessions": int(moments.last.sum()),
            "unknown_rewards": int((~self.outcomes.known).sum()),
            "empty_signals": self.outcomes.empty,
            "short_slates": int(short.sum()),
            "collisions": {name: {"colliding": c, "values": v} for name, (c, v) in collisions.items()},
        }


def _encoded(features: Features, table: Any, at: Array) -> Tensor:
    """Return the features of some rows, float32 [n, features]; a table without columns has no rows to count."""
    return features.encode(table.take(pa.array(at))) if features.columns else torch.zeros(len(at), 0)
