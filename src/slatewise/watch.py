"""One session told step by step, under one policy or under two that meet the same user and the same noise."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, zip_longest
from typing import Any

from slatewise import plots, reports
from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.naming import find_policy
from slatewise.sessions import Session, Step, play

TICK, HOLE = "✓", "nothing"
ENDINGS = {
    "terminated": "the session ended after {} steps",
    "truncated": "cut off after {} steps",
    None: "told for {} steps, not over yet",
}


def watch(
    names: Sequence[str],
    env: Environment,
    explore: bool = False,
    user: int = 0,
    longest: int | None = None,
    seed: int = 0,
) -> dict[str, Session]:
    """Play one user's session under one policy, or under each of two: the same user, the same noise.

    names: rules of the world, `random`, agents or runs.  explore: let agents explore as in training.
    seed: of what policies draw.  longest: stop after so many steps.
    Raises InputError for more than two policies, one named twice, or an unknown one.
    """
    if len(set(names)) != len(names) or not 1 <= len(names) <= 2:
        raise InputError(f"policies {', '.join(names) or 'none'}: name one, or two different ones to compare")
    policies = {name: find_policy(name, env, seed, explore=True) for name in names}
    return {name: play(policy, env, explore, user, longest) for name, policy in policies.items()}


def table(sessions: Mapping[str, Session]) -> list[dict[str, Any]]:
    """Return a row a step: for each policy what the user felt, what was shown and taken, what it earned in all."""
    rows: list[dict[str, Any]] = [{} for _ in range(max(len(session) for session in sessions.values()))]
    for name, session in sessions.items():
        prefix = f"{name}: " if len(sessions) > 1 else ""
        for i, total in enumerate(accumulate(session.reward)):
            told = _row(session.steps[i], total)
            rows[i] |= {"step": i + 1} | {f"{prefix}{key}": value for key, value in told.items()}
    return rows


def ending(session: Session) -> str:
    """Say how a session ended."""
    return ENDINGS[session.ended].format(len(session))


def page(sessions: Mapping[str, Session], env: Environment, user: int, command: str) -> str:
    """Return the sessions as one self-contained HTML page.

    command: what made it, said at the end.
    """
    changed = env.settings.model_dump(exclude_defaults=True)
    sides = [_side(name, session) for name, session in sessions.items()]
    return reports.render(
        "watch.html.jinja",
        {
            "world": env.full_name,
            "about": env.summary_text,
            "settings": ", ".join(f"{key} {value}" for key, value in changed.items()),
            "seed": env.seed,
            "user": user,
            "command": command,
            "colours": plots.PAIR,
            "policies": sides,
            "pictures": _pictures(sessions),
            "rounds": list(zip_longest(*(side["steps"] for side in sides))),
        },
    )


def _row(step: Step, total: float) -> dict[str, Any]:
    felt = ", ".join(f"{name} {number(value)}" for name, value in step.hidden.items())
    told = {"shown": _shown(step), "earned": step.reward, "in all": total}
    return {"felt": felt} | told if felt else told


def _shown(step: Step) -> str:
    """Name the items of a slate in order; a tick where taken, and the first of the policy's scores."""
    scores = next(iter(step.scores.values()), None)
    items: list[str] = []
    for slot, position in enumerate(step.slate):
        tick = f" {TICK}" if step.clicked[slot] else ""
        score = f" ({number(scores[position])})" if scores is not None and position >= 0 else ""
        items.append(f"{label(step, position)}{tick}{score}")
    return ", ".join(items)


def label(step: Step, position: int) -> str:
    """Return what the candidate at a position is called, its features of the moment included."""
    if position < 0:
        return HOLE
    features = [f"{name} {number(values[position])}" for name, values in step.items.items()]
    return " ".join([str(step.candidates[position]), *features])


def number(value: float) -> str:
    """Return a number as people read it."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return text.replace("-", "−")


def percent(chance: float) -> str:
    """Return a probability in per cent; what is not 0 or 1 does not look as if it were."""
    rounded = round(100 * chance)
    text = "<1" if rounded == 0 and chance > 0 else ">99" if rounded == 100 and chance < 1 else str(rounded)
    return f"{text}\u00a0%"  # a line is not broken there


def _side(name: str, session: Session) -> dict[str, Any]:
    """Return the words of one policy's session."""
    totals = list(accumulate(session.reward))
    steps = [_told(step, session, i, totals[i]) for i, step in enumerate(session.steps)]
    return {"name": name, "total": number(totals[-1]), "ending": ending(session), "steps": steps}


def _told(step: Step, session: Session, i: int, total: float) -> dict[str, Any]:
    """Return the words of one step."""
    after = session.steps[i + 1].hidden if i + 1 < len(session) else {}
    felt = [
        {"name": name, "value": number(value), "change": signed(after[name] - value) if name in after else None}
        for name, value in step.hidden.items()
    ]
    return {
        "felt": felt,
        "shown": [_slot(step, slot) for slot in range(len(step.slate))],
        "nothing": percent(step.chances[-1]) if step.chances is not None else None,
        "taken": ", ".join(label(step, step.slate[s]) for s, taken in enumerate(step.clicked) if taken) or HOLE,
        "signals": _signals(step),
        "earned": signed(step.reward),
        "total": number(total),
        "scores": list(step.scores),
        "candidates": _candidates(step),
    }


def _slot(step: Step, slot: int) -> dict[str, Any]:
    """Return the words of one shown item."""
    position = step.slate[slot]
    return {
        "label": label(step, position),
        "taken": step.clicked[slot],
        "scores": {name: number(values[position]) for name, values in step.scores.items() if position >= 0},
        "propensity": percent(step.propensity[slot]),
        "chance": percent(step.chances[slot]) if step.chances is not None else None,
    }


def _signals(step: Step) -> str:
    """Return the signals of what was taken, in the order of the slots."""
    taken = [slot for slot, clicked in enumerate(step.clicked) if clicked]
    told = {name: " and ".join(number(values[slot]) for slot in taken) for name, values in step.signals.items()}
    return ", ".join(f"{name} {values}" for name, values in told.items()) if taken else ""


def _candidates(step: Step) -> list[dict[str, Any]]:
    """Return what could be shown, the first score's best first; without scores in their order."""
    order = [position for position, name in enumerate(step.candidates) if name is not None]
    for values in list(step.scores.values())[:1]:
        order.sort(key=lambda position: -values[position])
    return [
        {
            "label": label(step, position),
            "slot": step.slate.index(position) + 1 if position in step.slate else None,
            "scores": [number(values[position]) for values in step.scores.values()],
            "first": percent(step.first[position]),
        }
        for position in order
    ]


def signed(value: float) -> str:
    """Return a number with its sign."""
    return f"+{number(value)}" if value >= 0 else number(value)


def _pictures(sessions: Mapping[str, Session]) -> list[str]:
    """Return what the user felt, where it changed, and the return so far, against steps, as SVG."""
    felt = next(iter(sessions.values())).hidden
    curves = {name: {n: s.hidden[name] for n, s in sessions.items()} for name in felt}
    curves = {name: lines for name, lines in curves.items() if len({v for line in lines.values() for v in line}) > 1}
    curves["return so far"] = {name: list(accumulate(session.reward)) for name, session in sessions.items()}
    return [plots.to_svg(plots.along_a_session(lines, what), f"{what} at every step") for what, lines in curves.items()]
