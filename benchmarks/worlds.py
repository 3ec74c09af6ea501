"""Do the worlds reproduce the published figures? Every rule with a known return, 20,000 sessions each."""

import argparse
import math

import torch
from results import save, table

import slatewise as sw
from slatewise.allocation import keep_freed_memory
from slatewise.environments.interest_evolution import REFERENCES as EVOLUTION
from slatewise.environments.long_term_satisfaction import REFERENCES as SATISFACTION

CLAIM = (
    "Mean return of every rule with a known return beside the figure it should have (computed independently, from "
    "RecSim's formulas); z is their difference in standard errors of the two together. |z| stays below 4."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    worlds = [("long-term-satisfaction", {"variant": v, "candidates": c}) for v, c in SATISFACTION]
    worlds += [("interest-evolution", {"choice": ch, "candidates": c, "slate_size": k}) for ch, c, k in EVOLUTION]
    rows = []
    for name, settings in worlds:
        env = sw.make(name, users=min(5000, arguments.episodes), seed=arguments.seed, **settings)
        references = env.references
        known = dict(references.rules)
        if "planner" in env.rules:
            known["planner"] = references.ceiling
        for rule, reference in known.items():
            result = sw.evaluate(env.rule(rule, arguments.seed), env, arguments.episodes)
            error = math.hypot(result.standard_error, reference.standard_error)
            rows.append(
                {
                    "world": name,
                    "settings": ", ".join(str(value) for value in settings.values()),
                    "rule": rule,
                    "mean": result.mean,
                    "standard_error": result.standard_error,
                    "reference": reference.mean,
                    "z": round((result.mean - reference.mean) / error, 1),
                }
            )
    print("\n".join(table(rows)))
    save("worlds", CLAIM, rows)


if __name__ == "__main__":
    main()
