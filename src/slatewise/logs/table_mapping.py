"""Which column of a table is what: the settings of an import, in Python or in a TOML file."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from slatewise.errors import InputError
from slatewise.features import Column, column_name, column_of
from slatewise.settings import Settings

Columns = tuple[Annotated[str | SerializeAsAny[Column], BeforeValidator(column_of)], ...]


class TableMapping(Settings):
    """What the columns of a table are. A row is a decision; with `position`, a slot; with `shown`, a candidate."""

    item: str = Field(description="column of the item: shown, or with `shown` a candidate")
    reward: str | dict[str, float] = Field(description="column that is the reward, or weights of several columns")
    signals: tuple[str, ...] = Field((), description="further columns that are kept as signals")
    clicked: str | None = Field(
        None, description="column that is true where the item was clicked; else reward is not 0"
    )
    missing_reward: Literal["unknown", "zero"] = Field(
        "unknown", description="an empty reward leaves that of the whole decision unknown, or is 0"
    )
    propensity: str | None = Field(None, description="column with the probability of showing the item")
    propensities: Literal["logged", "uniform", "estimate", "unknown"] = Field(
        "logged", description="those of `propensity`, of a uniform policy, estimated from the log, or unknown"
    )
    decision: str | None = Field(None, description="column that is the same in all rows of a decision")
    position: str | None = Field(None, description="column with the slot of the row in its slate: several rows a slate")
    candidates: str | None = Field(None, description="list column: all items that could have been shown")
    shown: str | None = Field(
        None, description="column that is true where the row's candidate was shown: rows are candidates"
    )
    user: str | None = Field(None, description="column of the user")
    time: str | None = Field(None, description="column of the time: timestamps, ISO 8601 text, or numbers")
    time_unit: Literal["s", "ms", "us"] | None = Field(None, description="unit of a time in numbers, since 1970")
    session: str | None = Field(None, description="column of the session")
    session_gap: Annotated[float, Field(gt=0)] | None = Field(
        None, description="minutes without a decision of a user after which a new session begins"
    )
    policy: str | None = Field(None, description="column with the version of the policy that decided")
    item_id: str | None = Field(None, description="column of the item table with the item; else named as in the table")
    separator: str = Field("|", min_length=1, description="what separates the candidates in text (CSV has no lists)")
    user_features: Columns = Field((), description="columns of what was known of user and moment when it was decided")
    item_features: Columns = Field((), description="columns of the item table")
    candidate_features: Columns = Field((), description="columns about a candidate in this moment")

    @model_validator(mode="after")
    def _fits(self) -> "TableMapping":
        problems = {
            "propensities = 'logged' needs the column `propensity`: name it, or choose uniform, estimate or unknown": (
                self.propensities == "logged" and self.propensity is None
            ),
            "`propensity` is read only where propensities are 'logged': drop one of the two": (
                self.propensities != "logged" and self.propensity is not None
            ),
            "`candidates` and `shown` are two ways to say the same: keep one": (
                self.candidates is not None and self.shown is not None
            ),
            "`position` and `shown` need the column `decision`, which says what rows belong together": (
                self.decision is None and (self.position is not None or self.shown is not None)
            ),
            "`session` and `session_gap` are two ways to say the same: keep one": (
                self.session is not None and self.session_gap is not None
            ),
            "`session_gap` needs the columns `user` and `time`": (
                self.session_gap is not None and (self.user is None or self.time is None)
            ),
            "`candidate_features` need candidates: name the column `candidates` or `shown`": (
                bool(self.candidate_features) and self.candidates is None and self.shown is None
            ),
            "`reward` names no column": not self.rewards,
        }
        for problem, present in problems.items():
            if present:
                raise ValueError(problem)
        return self

    @property
    def rewards(self) -> dict[str, float]:
        """Weights of the columns that the reward is made of."""
        return {self.reward: 1.0} if isinstance(self.reward, str) else self.reward

    @property
    def all_signals(self) -> tuple[str, ...]:
        """The columns that are kept as signals, those of the reward first."""
        return tuple(dict.fromkeys([*self.rewards, *self.signals]))

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the table that are read."""
        named = (
            self.item, self.clicked, self.propensity, self.decision, self.position, self.candidates, self.shown,
            self.user, self.time, self.session, self.policy, *self.all_signals,
            *(column_name(c) for c in (*self.user_features, *self.candidate_features)),
        )  # fmt: skip
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def item_columns(self) -> tuple[str, ...]:
        """All columns of the item table that are read, the id first."""
        return tuple(dict.fromkeys([self.item_id or self.item, *(column_name(c) for c in self.item_features)]))


def read_mapping(mapping: "TableMapping | Mapping[str, Any] | str | Path") -> TableMapping:
    """Return a mapping from settings, a dict of them, or the path of a TOML file with the same names.

    Raises InputError for a file that cannot be read, an unknown key (with the nearest one), or values that do not fit.
    """
    if isinstance(mapping, TableMapping):
        return mapping
    if isinstance(mapping, Mapping):
        return TableMapping.of("the mapping", mapping)
    if not Path(mapping).exists():
        raise InputError(f"{mapping} does not exist: give the path of a TOML file that says which column is what")
    try:
        values = tomllib.loads(Path(mapping).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{mapping} cannot be read ({error}): give a TOML file that maps columns") from None
    return TableMapping.of(str(mapping), values)
