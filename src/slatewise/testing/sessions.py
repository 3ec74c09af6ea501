"""What a world promises of its records: shapes, ends, episodes, restarts, totals, memory."""

from typing import Any

import torch
from torch import Tensor

from slatewise.checks import first_true
from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.history import interaction_features, push, summary_increment
from slatewise.interactions import Observation
from slatewise.testing.base import Broken, copies_of, difference, tensors_of
from slatewise.testing.worlds import Case, Moment, walk


def spec(case: Case) -> None:
    """Ask that shapes and names of what is observed are those of the spec."""
    for step, moment in enumerate(case.moments[:30]):
        for name, observation in (("next_observation", moment.last), ("observation", moment.now)):
            for key, (shown, said) in _sizes(case.env, observation).items():
                if shown != said:
                    raise Broken(
                        f"{name}.{key} has {shown} at step {step}, env.spec says {said}",
                        "Make the spec say what is shown.",
                    )
        signals, slots = moment.interactions.response.signals.shape[2], moment.interactions.decision.slate.shape[1]
        if signals != len(case.env.spec.signals) or slots != case.env.spec.slate_size:
            raise Broken(
                f"response.signals has {signals} columns for {slots} slots, env.spec names "
                f"{len(case.env.spec.signals)} for {case.env.spec.slate_size}",
                "Make the spec say what is returned.",
            )
    _spec_names(case.env)


def _sizes(env: Environment, observation: Observation) -> dict[str, tuple[object, object]]:
    """Return the sizes of an observation beside those of the spec."""
    spec, history, catalogue = env.spec, observation.history, observation.catalogue
    width = [spec.history, spec.history_features] if spec.history else None
    features = catalogue.features.shape[1] if catalogue is not None else 0
    return {
        "user": (list(observation.user.shape), [env.users, len(spec.user)]),
        "item_ids": (list(observation.item_ids.shape), [env.users, spec.candidates]),
        "items": (list(observation.items.shape), [env.users, spec.candidates, len(spec.items)]),
        "catalogue": (features, len(spec.catalogue)),
        "history": (list(history.shape[1:]) if history is not None else None, width),
    }


def _spec_names(env: Environment) -> None:
    spec = env.spec
    for key in ("user", "catalogue", "items", "signals"):
        names = getattr(spec, key)
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise Broken(f"env.spec.{key} names {twice!r} twice", "Give every feature a name of its own.")
    for column in spec.summary:
        for name, known, key in [
            (column.name, spec.user, "user"),
            *((s, spec.signals, "signals") for s in column.signals),
        ]:
            if name not in known:
                raise Broken(f"summary column {column.name!r} needs {name!r}, not in env.spec.{key}", "Name it there.")


def ends(case: Case) -> str | None:
    """Ask that no session ends twice, and that the horizon truncates."""
    for step, moment in enumerate(case.moments):
        both = moment.interactions.terminated & moment.interactions.truncated
        if bool(both.any()):
            row = first_true(both)[0]
            raise Broken(
                f"user {row} is both terminated and truncated at step {step}",
                "A session that is over is terminated; truncated is for one that could have gone on.",
            )
    horizon = case.env.horizon
    if horizon is None:
        return case.nobody_ended
    return _horizon(case, horizon)


def _horizon(case: Case, horizon: int) -> str | None:
    reached = terminated = 0
    for step, moment in enumerate(case.moments):
        i = moment.interactions
        late, early = (i.step >= horizon - 1) & ~i.done, i.truncated & (i.step < horizon - 1)
        for bad, what in ((late, "goes on after"), (early, "is truncated before")):
            if bool(bad.any()):
                row = first_true(bad)[0]
                raise Broken(
                    f"user {row} {what} {int(i.step[row]) + 1} steps, env.horizon is {horizon} (step {step})",
                    "Truncate sessions at the horizon and nowhere else.",
                )
        reached += int((i.step == horizon - 1).sum())
        terminated += int((i.terminated & (i.step == horizon - 1)).sum())
    if reached >= 30 and terminated == reached:
        raise Broken(
            f"all {reached} sessions that reached env.horizon = {horizon} are terminated, none is truncated",
            "Leave what the horizon cuts off truncated: the future would have gone on. If sessions really end then, "
            "set horizon to None.",
        )
    return None if reached else f"not asked: no session reached the horizon of {horizon}"


def valid(case: Case) -> None:
    """Ask that every record passes its own validation."""
    for step, moment in enumerate(case.moments):
        try:
            moment.interactions.validate()
            moment.now.validate("env.observation")
        except InputError as error:
            raise Broken(f"step {step}: {error}", "Return records as docs/architecture.md describes them.") from None


def episodes(case: Case) -> None:
    """Ask that no two sessions share an id, and that each counts its steps."""
    env = case.world()
    expected = torch.zeros(env.users, dtype=torch.int64, device=env.device)
    episode, seen = expected - 1, set[int]()
    for step in range(60):
        if step == 40:
            env.reset()
            expected, episode = torch.zeros_like(expected), torch.zeros_like(expected) - 1
        moment = next(walk(env, case.random(env, step), 1))
        i = moment.interactions
        if bool((i.step != expected).any()):
            row = first_true(i.step != expected)[0]
            raise Broken(
                f"user {row} is at step {int(i.step[row])}, {int(expected[row])} steps after the session began",
                "Count the steps of every session from 0.",
            )
        for row, (now, before) in enumerate(zip(i.episode.tolist(), episode.tolist(), strict=True)):
            if (now != before) if before >= 0 else (now in seen):
                what = f"changes from {before} to" if before >= 0 else "begins another session as"
                raise Broken(f"user {row} {what} episode {now} (step {step})", "Give every session an id of its own.")
            seen.add(now)
        expected = torch.where(i.done, 0, expected + 1)
        episode = torch.where(i.done, -1, i.episode)


def restarts(case: Case) -> str | None:
    """Ask that restarts touch finished users only, after their last observation was taken."""
    previous: Moment | None = None
    moved, kept, example = False, True, ""
    for step, moment in enumerate(case.moments):
        i, done = moment.interactions, moment.interactions.done
        if previous is not None and (found := difference(i.observation, previous.now)):
            raise Broken(
                f"observation.{found} at step {step}: not what env.observation was before it",
                "Put the observation that was decided on into the record.",
            )
        if found := difference(moment.last, moment.now, ~done):
            raise Broken(
                f"nobody but the {int(done.sum())} finished users may restart at step {step}, but {found} before and "
                "after the restart for a user who goes on",
                "Restart finished users alone.",
            )
        elapsed = torch.where(done, 0, i.step + 1)
        if bool((moment.elapsed != elapsed).any()):
            row = first_true(moment.elapsed != elapsed)[0]
            raise Broken(
                f"env.elapsed[{row}] is {int(moment.elapsed[row])} after step {step}, expected {int(elapsed[row])}",
                "Begin the sessions of finished users, and of nobody else, at 0.",
            )
        moved |= difference(i.observation.user, moment.last.user, ~done) is not None
        if bool(done.any()) and difference(moment.last.user, moment.now.user, done) is None:
            example = example or f"user {first_true(done)[0]} at step {step}"
        elif bool(done.any()):
            kept = False
        previous = moment
    if kept and example and moved:
        raise Broken(
            f"next_observation is the first observation of the next session for every finished user, such as {example}",
            "Keep the last observation of a session in next_observation, and restart afterwards.",
        )
    return case.nobody_ended


def totals(case: Case) -> str | None:
    """Ask that session totals and histories can be rebuilt from the responses, as log readers do."""
    env, spec = case.env, case.env.spec
    if not spec.summary and not spec.history:
        return "not asked: neither summary nor history"
    columns = [spec.user.index(column.name) for column in spec.summary]
    totals = torch.zeros(env.users, len(columns), device=env.device)
    history = torch.zeros(env.users, spec.history, spec.history_features, device=env.device)
    for step, moment in enumerate(case.moments):
        i = moment.interactions
        if columns:
            totals = totals + summary_increment(spec.summary, spec.signals, i.response)
        if spec.history:
            history = push(history, interaction_features(i.observation, i.decision, i.response))
        for observation, begun in ((moment.last, False), (moment.now, True)):
            if begun:
                totals = torch.where(i.done.unsqueeze(1), 0.0, totals)
                history = torch.where(i.done.view(-1, 1, 1), 0.0, history)
            shown = {"totals": observation.user[:, columns], "history": observation.history}
            expected = {"totals": totals, "history": history if spec.history else None}
            if found := difference(shown, expected):
                raise Broken(
                    f"after step {step}, {found}: shown and worked out from the responses",
                    "Show self.totals as the columns that spec.summary names, and leave the history to the base class.",
                )
    return None


def memory(case: Case) -> None:
    """Ask that what was handed out is not changed by going on."""
    env = case.world()
    state = {value.untyped_storage().data_ptr(): key for key, value in env.state.items() if value.numel()}
    for key, value in tensors_of(env.observation).items():
        if value.numel() and value.untyped_storage().data_ptr() in state:
            name = state[value.untyped_storage().data_ptr()]
            raise Broken(f"observation.{key} is the memory of state[{name!r}]", "Give out a copy: .clone().")
    kept: list[tuple[Any, dict[str, Tensor]]] = [(env.observation, copies_of(env.observation))]
    for step, moment in enumerate(walk(env, case.random(env), 25)):
        for record, copies in kept:
            if found := difference(tensors_of(record), copies):
                raise Broken(
                    f"an older record changes at step {step}: {found} now and then",
                    "Give out copies, or replace arrays instead of changing them in place.",
                )
        kept.append((moment, copies_of(moment)))
