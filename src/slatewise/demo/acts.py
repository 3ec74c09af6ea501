"""One world of the demo: measure the rules, train the agents, play a session, draw the pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slatewise import plots, reports
from slatewise.agents import make_agent
from slatewise.environments import make
from slatewise.environments.base import Environment, References
from slatewise.evaluation import Evaluation, evaluate
from slatewise.interactions import Policy
from slatewise.output import print_table
from slatewise.runs import metrics
from slatewise.sessions import Session, play
from slatewise.training import train

EPISODES = 2000
EVALUATION_SEED = 1000  # users that nobody was trained on
STEPS = {"supervised": 1_000_000, "linucb": 30_000, "slateq": 2_500_000}
USERS = 256
TITLES = {"random": "Random", "supervised": "The supervised policy", "linucb": "LinUCB", "slateq": "SlateQ"}


@dataclass(frozen=True)
class Act:
    """One world of the demo and how its story is told."""

    world: str
    settings: dict[str, Any]
    title: str
    story: str
    session_story: str


ACTS = (
    Act(
        "long-term-satisfaction",
        {"variant": "sweetness"},
        "Chocolate or kale",
        "Every item is somewhere between kale (0) and chocolate (1). Chocolate engages more, and lowers the user's "
        "satisfaction; kale restores it. Engagement grows with satisfaction, which nobody sees. A session has ten "
        "steps, one item each, out of twenty on offer.",
        "The same user with the same starting satisfaction, served by the supervised policy and by SlateQ. Each bar is "
        "what the user ate and the engagement it brought; the line below is how the user felt.",
    ),
    Act(
        "interest-evolution",
        {},
        "A session that lasts",
        "Users have interests in twenty topics that drift with what they watch, and a hidden budget of time. Poor "
        "topics use it up, good ones refill most of it. Ten items are on offer at every step, and a slate of two is "
        "shown: the problem that SlateQ was published for. Reward is minutes watched.",
        "The same user, served by the supervised policy and by SlateQ: the quality of what they watched (they often "
        "watch nothing), and the minutes left before they leave.",
    ),
)


def run_act(act: Act, runs: Path, seed: int, divisor: int, show: bool, say: Any) -> dict[str, Any]:
    """Measure the rules, train the agents, play the sessions and draw the pictures of one world."""
    env = make(act.world, EPISODES // 2, EVALUATION_SEED, **act.settings)
    references = env.references
    assert references is not None  # the demo's worlds have them
    rules = {name: evaluate(env.rule(name, seed), env, EPISODES) for name in references.rules}
    best = max(rules, key=lambda name: rules[name].mean)
    results = {"random": rules["random"]}
    curves: dict[str, list[dict[str, Any]]] = {}
    sessions: dict[str, Session] = {}
    training: list[str] = []
    for name, steps in STEPS.items():
        agent, spent = _train(name, act, runs / act.world / name, seed, max(USERS, steps // divisor), show)
        results[name] = evaluate(agent, env, EPISODES)
        curves[name] = metrics(runs / act.world / name)
        training.append(f"{name} {steps // divisor:,} steps in {spent:.0f} s")
        if name in ("supervised", "slateq"):
            sessions[name] = play(agent, make(act.world, 1, EVALUATION_SEED, **act.settings))
        say(f"{act.world}: {name} reaches {results[name].mean:.1f} ± {results[name].standard_error:.1f}")
    numbers = _numbers(results, best, rules[best], references)
    if show:
        _print_table(act, numbers)
    page = _world_page(act, env, numbers, results, rules, best)
    page |= _pictures(numbers, curves, sessions, references, best)
    page["training_note"] = ", ".join(training) + "."
    return {"full_name": env.full_name, "numbers": numbers, "page": page}


def _train(name: str, act: Act, run: Path, seed: int, steps: int, show: bool) -> tuple[Policy, float]:
    env = make(act.world, USERS, seed, **act.settings)
    agent = make_agent(name, env.spec, env.choice, seed)
    training = train(agent, env, steps, run, overwrite=True, progress=show)
    if training.interrupted:
        raise KeyboardInterrupt
    return agent, training.seconds


def _numbers(results: dict[str, Evaluation], best: str, rule: Evaluation, references: References) -> dict[str, Any]:
    def short(e: Evaluation) -> dict[str, Any]:
        return {"mean": e.mean, "standard_error": e.standard_error, "share": e.share}

    ceiling = references.ceiling
    assert ceiling is not None  # the demo's worlds have one
    return {
        "policies": {name: short(e) for name, e in results.items()},
        "random": {"mean": results["random"].mean, "standard_error": results["random"].standard_error},
        "best_rule": {"name": best, **short(rule)},
        "ceiling": {"mean": ceiling.mean, "standard_error": ceiling.standard_error, "kind": ceiling.kind},
    }


def _world_page(
    act: Act,
    env: Environment,
    numbers: dict[str, Any],
    results: dict[str, Evaluation],
    rules: dict[str, Evaluation],
    best: str,
) -> dict[str, Any]:
    """Return the words and the table of one world's section."""
    top = max(("supervised", "linucb", "slateq"), key=lambda name: results[name].mean)
    rows = [
        {"name": name, "kind": "best" if name == top else "", **values} for name, values in numbers["policies"].items()
    ]
    rows += [
        {
            "name": f"{name}, a rule",
            "kind": "reference",
            "mean": e.mean,
            "standard_error": e.standard_error,
            "share": e.share,
        }
        for name, e in rules.items()
        if name != "random"
    ]
    ceiling = {
        "name": f"ceiling ({numbers['ceiling']['kind']})",
        "kind": "reference",
        "share": 1.0,
        **numbers["ceiling"],
    }
    rows.append(ceiling | {"kind": "reference"})
    kinds = {
        "exact": "The ceiling is exact: dynamic programming with the true model, everything hidden known.",
        "planner": "The ceiling is a strong planner that knows the users' model: a lower bound on the optimum, so a "
        "share may pass 100 %.",
    }
    settings = ", ".join(f"{key} {value}" for key, value in act.settings.items())
    findings = [_finding(name, results[name], results["random"], best, rules[best]) for name in STEPS]
    if best == "random":
        findings.append("No rule without learning does better than random here.")
    findings += _why_greed_loses(results) if act.world == "long-term-satisfaction" else _why_sessions_last(results)
    return {
        "name": act.world,
        "title": act.title,
        "story": act.story,
        "session_story": act.session_story,
        "rows": rows,
        "findings": findings,
        "ceiling_note": kinds[numbers["ceiling"]["kind"]],
        "curve_story": f"World {env.full_name}, {settings or 'default settings'}. Lines: random, the best rule without "
        "learning, and the ceiling. Agents explore while they learn, so the curve of a good agent ends a little below "
        "its greedy return in the table.",
    }


def _finding(name: str, e: Evaluation, random: Evaluation, best: str, rule: Evaluation) -> str:
    """Say in one sentence how an agent stands beside random and the best rule."""
    first = reports.compare(TITLES[name], e.mean, e.standard_error, "random", random.mean, random.standard_error)
    if best == "random":
        return f"{first}."
    second = reports.compare("it", e.mean, e.standard_error, f"{best}, the best rule without learning", rule.mean,
                             rule.standard_error)  # fmt: skip
    return f"{first}; {second}."


def _why_greed_loses(results: dict[str, Evaluation]) -> list[str]:
    losers = [TITLES[name] for name in ("supervised", "linucb") if results[name].mean < results["random"].mean]
    if not losers:
        return []
    return [
        f"Why greed loses to random: {_both(losers)} learned, correctly, that the sweeter of two items engages more "
        "right now, and so chocolate is served at every step. Satisfaction falls, and every later engagement with it. "
        "Choosing at random at least lets the user recover."
    ]


def _why_sessions_last(results: dict[str, Evaluation]) -> list[str]:
    slateq, supervised = results["slateq"], results["supervised"]
    if slateq.mean_length <= supervised.mean_length:
        return []
    return [
        "Why: what earns most now is what a user already likes, and poor topics use up the user's time. Sessions under "
        f"the supervised policy last {supervised.mean_length:.0f} steps, under SlateQ {slateq.mean_length:.0f}."
    ]


def _both(names: list[str]) -> str:
    text = " and ".join(names)
    return text[0].lower() + text[1:] if text.startswith("The") else text


def _pictures(
    numbers: dict[str, Any],
    curves: dict[str, list[dict[str, Any]]],
    sessions: dict[str, Session],
    references: References,
    best: str,
) -> dict[str, Any]:
    """Return the figures of one world's section as SVG."""
    lines = {"random": references.rules["random"].mean, "ceiling": numbers["ceiling"]["mean"]}
    if best != "random":
        lines[best] = references.rules[best].mean
    hidden = next(iter(sessions["slateq"].hidden))
    draw = plots.satisfaction_session if hidden == "satisfaction" else plots.budget_session
    tops = [v for s in sessions.values() for v in (s.reward if hidden == "satisfaction" else s.hidden[hidden])]
    limits = plots.largest(tops), float(max(len(s) for s in sessions.values()))
    described = ", ".join(f"{name} {values['mean']:.1f}" for name, values in numbers["policies"].items())
    return {
        "bars": plots.to_svg(
            plots.returns(numbers["policies"], numbers["best_rule"], numbers["ceiling"]), f"Mean returns: {described}"
        ),
        "curves": plots.to_svg(plots.learning_curves(curves, lines), "Return while learning, against user-steps"),
        "sessions": [
            plots.to_svg(
                draw(s, TITLES[name], limits), f"One session under {name}: {len(s)} steps, {sum(s.reward):.0f} reward"
            )
            for name, s in sessions.items()
        ],
    }


def _print_table(act: Act, numbers: dict[str, Any]) -> None:
    best, ceiling = numbers["best_rule"], numbers["ceiling"]
    rows = [{"policy": name, **values} for name, values in numbers["policies"].items()]
    if best["name"] not in numbers["policies"]:
        rows.append({"policy": f"{best['name']} (best rule)"} | {k: v for k, v in best.items() if k != "name"})
    rows.append(
        {"policy": f"ceiling ({ceiling['kind']})", "mean": ceiling["mean"], "standard_error": ceiling["standard_error"]}
    )
    print_table(f"{act.title} ({act.world})", rows, errors=True)
