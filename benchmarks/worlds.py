"""Do the worlds reproduce the published figures? Every rule with a known return, in every table."""

import argparse
import math
from collections.abc import Iterator
from typing import Any

import torch
from results import save, table

import slatewise as sw
from slatewise.environments.base import Reference
from slatewise.environments.feed import REFERENCES as FEED
from slatewise.environments.interest_evolution import REFERENCES as EVOLUTION
from slatewise.environments.interest_exploration import REFERENCES as EXPLORATION
from slatewise.environments.long_term_satisfaction import REFERENCES as SATISFACTION
from slatewise.mazes import LAYOUTS

CLAIM = (
    "Mean return of every rule with a known return beside the figure it should have (computed independently, from "
    "RecSim's formulas; those of the maze are exact); z is their difference in standard errors of the two together. "
    "|z| stays below 4. Planners without a figure are shown for their own sake. Settings: of long-term satisfaction "
    "the variant and candidates, of interest evolution the choice model, candidates and slate size, of interest "
    "exploration the variant, of the maze the layout, of the feed boredom, influence, leaving, days and reward, or the "
    "variant (its figures are our own, measured with other seeds). The optimum of long-term satisfaction has a table "
    "of its own, ceilings."
)
KNOWING = ("planner", "oracle", "optimal")  # rules that know more than an agent may, and stand for the ceiling


def worlds() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every world and settings that have a table."""
    for variant, candidates in SATISFACTION:
        yield "long-term-satisfaction", {"variant": variant, "candidates": candidates}
    for choice, candidates, slate_size in EVOLUTION:
        yield "interest-evolution", {"choice": choice, "candidates": candidates, "slate_size": slate_size}
    for boredom, influence, leaving, days, reward in FEED:
        of_users = {"boredom": boredom, "influence": influence, "leaving": leaving}
        yield "feed", of_users | {"days": days, "reward": reward}
    yield "feed", {"variant": "small"}
    for variant in EXPLORATION:
        yield "interest-exploration", {"variant": variant}
    for layout in LAYOUTS:
        yield "maze", {"layout": layout}


def row(env: sw.Environment, rule: str, reference: Reference | None, episodes: int) -> dict[str, Any]:
    """Measure one rule."""
    result = sw.evaluate(env.rule(rule, env.seed), env, episodes)
    measured = {
        "rule": rule,
        "sessions": result.episodes,
        "mean": result.mean,
        "standard_error": result.standard_error,
        "length": result.mean_length,
    }
    if reference is None:
        return measured
    error = math.hypot(result.standard_error, reference.standard_error)
    difference = result.mean - reference.mean
    z = round(difference / error, 1) if error else 0.0 if difference == 0 else math.inf
    return measured | {"reference": reference.mean, "z": z}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20_000, help="a quarter of them with more than 20 candidates")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, settings in worlds():
        episodes = arguments.episodes // (4 if settings.get("candidates", 10) > 20 else 1)
        env = sw.make(name, min(5000, episodes), arguments.seed, **settings)
        known: dict[str, Reference | None] = dict(env.references.rules)
        known |= {rule: env.references.ceiling for rule in KNOWING if rule in env.rules}
        for rule, reference in known.items():
            shown = ", ".join(str(value) for value in settings.values())
            rows.append({"world": name, "settings": shown} | row(env, rule, reference, episodes))
            print("\n".join(table(rows[-1:])[-1:]), flush=True)
    save("worlds", CLAIM, rows)


if __name__ == "__main__":
    main()
