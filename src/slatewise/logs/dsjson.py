"""Vowpal Wabbit's dsjson (https://github.com/VowpalWabbit/vowpal_wabbit/wiki/DSJSON): one JSON object a decision."""

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.logs.dsjson_lines import BadLine, Event, decisions
from slatewise.logs.log import Log
from slatewise.logs.named_features import NamedFeatures
from slatewise.logs.writer import LogWriter

BATCH_BYTES: Final = 64 * 2**20


def import_dsjson(out: str | Path, files: Sequence[str | Path], buckets: int = 64, overwrite: bool = False) -> Log:
    """Write Vowpal Wabbit's dsjson files, in this order, to `out` as one log, and return it.

    Every line is a decision of its own: contextual bandits (`_labelIndex`, `_label_cost`, `_label_probability`; K = 1)
    or conditional ones (`_outcomes`; K slots, each with its cost, and a probability given the slots before it). The
    reward is minus the cost, known where every slot has one; a slot with a reward above 0 counts as clicked. `user` has
    the features of `c`, `items` those of `c._multi` (see `named_features`); a namespace, or a string feature, with more
    than `buckets` names is hashed into as many columns: `source` says which, and how many names collide. Where every
    action has a `_tag`, tags are the ids of the catalogue. `time`, `decision_id` and `policy_version` (`VWState.m`) are
    there if every line has them. Features of slots are left out.

    Lines with `_skipLearn` and rewards without a decision are left out, and counted in `source`. `pdrop`, the share of
    decisions that were dropped before, must be the same in all lines: then no mean changes.

    Files are read twice, line by line: in memory are the names and one batch. Raises InputError, before anything is
    written, naming file, line, what was expected and how many lines are affected.
    """
    if buckets < 1:
        raise InputError(f"buckets={buckets}: a hashed group of features needs at least 1 column")
    paths = [Path(file) for file in files]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is not a file: give dsjson files, one JSON object a line")
    facts = _Facts(buckets)
    for path in paths:
        facts.read(path)
    if not facts.rows:
        raise InputError(f"{', '.join(map(str, paths)) or 'no file'}: no decisions found: give dsjson files")
    with LogWriter(out, facts.spec(), facts.source(), overwrite) as writer:
        start = 0
        events = (event for path in paths for _, event in decisions(path) if event is not None)
        while batch := list(islice(events, facts.batch)):
            writer.add(facts.interactions(batch, start))
            start += len(batch)
    return Log(out)


class _Facts:
    """What a first pass over the files finds: sizes, names, and which optional columns all lines have."""

    def __init__(self, buckets: int) -> None:
        self.user, self.items = NamedFeatures(buckets), NamedFeatures(buckets)
        self.rows = self.skipped = self.candidates = self.slots = 0
        self.tags: dict[str, int] | None = {}
        self.optional = {"time", "decision_id", "policy_version"}
        self.pdrop: float | None = None

    def read(self, path: Path) -> None:
        """Take note of a file. Raises InputError for the first line that is not what it should be, and how many."""
        wrong, count, lines = "", 0, 0
        for number, event in decisions(path, strict=False):
            lines += 1
            try:
                if isinstance(event, BadLine):
                    raise event
                self._see(event)
            except InputError as bad:
                wrong, count = wrong or f"line {number} {bad}", count + 1
        if wrong:
            raise InputError(f"{path}: {wrong}; {count} of {lines} lines are affected, correct or drop them")

    def _see(self, event: Event | None) -> None:
        if event is None:
            self.skipped += 1
            return
        self.pdrop = event.pdrop if self.pdrop is None else self.pdrop
        if event.pdrop != self.pdrop:
            raise BadLine(
                f"has pdrop {event.pdrop}, lines before have {self.pdrop}: import them into a log of their own"
            )
        self.rows += 1
        self.candidates = max(self.candidates, len(event.actions))
        self.slots = max(self.slots, len(event.shown))
        self.optional -= {name for name in self.optional if getattr(event, name) is None}
        self.user.see(event.context)
        for action in event.actions:
            self.items.see(action)
            self._tag(action.get("_tag"))

    def _tag(self, tag: Any) -> None:
        if not isinstance(tag, str):
            self.tags = None
        elif self.tags is not None:
            self.tags.setdefault(tag, len(self.tags))

    @property
    def batch(self) -> int:
        """How many decisions are read at once."""
        width = 4 * (len(self.user.names) + self.candidates * (2 + len(self.items.names)))
        return max(1, min(8192, BATCH_BYTES // width))

    def spec(self) -> Spec:
        return Spec(self.user.names, (), self.items.names, (), self.candidates, self.slots)

    def source(self) -> dict[str, Any]:
        hashed = {"user": self.user.hashed(), "items": self.items.hashed()}
        return {"kind": "dsjson", "skipped": self.skipped, "pdrop": self.pdrop, "hashed": hashed}

    def interactions(self, events: list[Event], start: int) -> Interactions:
        rows = len(events)
        yes, at = torch.ones(rows, dtype=torch.bool), torch.arange(start, start + rows)
        return Interactions(
            self._observation(events),
            self._decision(events),
            self._response(events),
            None,
            yes,
            ~yes,
            at,
            torch.zeros_like(at),
            time=torch.tensor([event.time for event in events]) if "time" in self.optional else None,
            decision_id=self._strings(events, "decision_id"),
            policy_version=self._strings(events, "policy_version"),
        )

    def _strings(self, events: list[Event], name: str) -> np.ndarray[Any, Any] | None:
        values = [getattr(event, name) for event in events]
        return np.array(values, dtype=object) if name in self.optional else None

    @cached_property
    def _catalogue(self) -> Catalogue | None:
        return Catalogue.of(torch.zeros(len(self.tags), 0), list(self.tags)) if self.tags is not None else None

    def _observation(self, events: list[Event]) -> Observation:
        lengths = torch.tensor([len(event.actions) for event in events])
        there = torch.arange(self.candidates) < lengths.unsqueeze(1)
        actions = [action for event in events for action in event.actions]
        ids = torch.arange(self.candidates).repeat(len(events), 1)
        if self.tags is not None:
            ids[there] = torch.tensor([self.tags[action["_tag"]] for action in actions])
        items = torch.zeros(*there.shape, len(self.items.names))
        items[there] = self.items.matrix(actions)
        user = self.user.matrix([event.context for event in events])
        return Observation(user, torch.where(there, ids, -1), items, self._catalogue)

    def _decision(self, events: list[Event]) -> Decision:
        holes = [(-1, 1.0)] * self.slots
        slots = [(event.shown + holes)[: self.slots] for event in events]
        slate = torch.tensor([[action for action, _ in row] for row in slots])
        return Decision(slate, torch.tensor([[p for _, p in row] for row in slots], dtype=torch.float64))

    def _response(self, events: list[Event]) -> Response:
        zeros = [0.0] * self.slots
        reward = torch.tensor([((e.rewards or []) + zeros)[: self.slots] for e in events], dtype=torch.float64)
        return Response(
            reward > 0,
            torch.zeros(*reward.shape, 0),
            reward,
            torch.tensor([event.decision_reward for event in events], dtype=torch.float64),
            torch.tensor([event.rewards is not None for event in events]),
        )
