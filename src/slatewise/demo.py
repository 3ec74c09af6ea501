"""The demo: train and judge recommenders live, and write a page that explains what happened."""

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from slatewise import plots, reports
from slatewise.agents import make_agent
from slatewise.environments import make
from slatewise.environments.base import Environment, References
from slatewise.errors import InputError
from slatewise.evaluation import Evaluation, evaluate, simulate
from slatewise.interactions import Policy
from slatewise.judging import judge
from slatewise.logs import Log, LogWriter, import_open_bandit
from slatewise.output import print_table
from slatewise.runs import metrics
from slatewise.sessions import Session, play
from slatewise.training import train

EPISODES = 2000
EVALUATION_SEED = 1000  # users that nobody was trained on
STEPS = {"supervised": 1_000_000, "linucb": 30_000, "slateq": 2_500_000}
USERS = 256


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
        "satisfaction; kale restores it. Engagement grows with satisfaction, which nobody sees. A session has ten steps, "
        "one item each, out of twenty on offer.",
        "The same user with the same starting satisfaction, served by the supervised policy and by SlateQ. Each bar is what "
        "the user ate and the engagement it brought; the line below is how the user felt.",
    ),
    Act(
        "interest-evolution",
        {},
        "A session that lasts",
        "Users have interests in twenty topics that drift with what they watch, and a hidden budget of time. Poor topics "
        "use it up, good ones refill most of it. Ten items are on offer at every step, and a slate of two is shown: the "
        "problem that SlateQ was published for. Reward is minutes watched.",
        "The same user, served by the supervised policy and by SlateQ: the quality of what they watched (they often watch "
        "nothing), and the minutes left before they leave.",
    ),
)


def run_demo(out: Path, seed: int = 0, quick: bool = False, download: bool = True, show: bool = True) -> dict[str, Any]:
    """Run the whole demo into a folder and return its numbers; the page is `report.html` in it.

    quick: a tenth of the training.  download: fetch the Open Bandit sample with pip where it is not in the cache.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    say = Console(stderr=True).print if show else _silent
    chapters = [_run_act(act, out / "runs", seed, 10 if quick else 1, show, say) for act in ACTS]
    say("judging policies on a log …")
    judged = _judge_open_bandit(out / "logs", download, say) or _judge_simulation(out / "logs", seed)
    result: dict[str, Any] = {
        "worlds": {chapter["full_name"]: chapter["numbers"] for chapter in chapters},
        "off_policy": judged["numbers"],
        "report": str(out / "report.html"),
    }
    seconds = time.perf_counter() - started
    page = reports.render(
        "demo.html.jinja",
        {
            "worlds": [chapter["page"] for chapter in chapters],
            "off_policy": judged["page"],
            "minutes": f"{seconds / 60:.1f}",
            "quick": quick,
            "episodes": EPISODES,
            "command": f"slatewise demo --seed {seed}{' --quick' if quick else ''}",
            "seed": seed,
            "evaluation_seed": EVALUATION_SEED,
            "versions": f"slatewise {version('slatewise')}, torch {version('torch')}, Python {platform.python_version()}",
            "timing": f"{seconds:.0f} seconds on {os.cpu_count()} cores, one thread",
        },
    )
    unfinished = out / ".report.html"
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(out / "report.html")
    say(f"the page: {out / 'report.html'}  ({seconds / 60:.1f} minutes)")
    return result


def _run_act(act: Act, runs: Path, seed: int, divisor: int, show: bool, say: Any) -> dict[str, Any]:
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
    page = _world_page(act, env, numbers, results, rules, best, references)
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
    references: References,
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
    ceiling = {"name": f"ceiling ({references.ceiling.kind})", "kind": "reference", "share": 1.0, **numbers["ceiling"]}
    rows.append(ceiling | {"kind": "reference"})
    kinds = {
        "exact": "The ceiling is exact: dynamic programming with the true model, everything hidden known.",
        "planner": "The ceiling is a strong planner that knows the users' model: a lower bound on the optimum, so a share "
        "may pass 100 %.",
    }
    rule = "random itself" if best == "random" else f"{best}, the best rule without learning,"
    findings = [_finding(name, results[name], results["random"], rule, rules[best]) for name in STEPS]
    if act.world == "long-term-satisfaction":
        findings += _why_greed_loses(results)
    return {
        "name": act.world,
        "title": act.title,
        "story": act.story,
        "session_story": act.session_story,
        "rows": rows,
        "findings": findings,
        "ceiling_note": kinds[references.ceiling.kind],
        "curve_story": f"World {env.full_name}, {', '.join(f'{k} {v}' for k, v in act.settings.items()) or 'default settings'}. Lines: random, the best rule "
        "without learning, and the ceiling. Agents explore while they learn, so the curve of a good agent ends a little "
        "below its greedy return in the table.",
    }


def _finding(name: str, e: Evaluation, random: Evaluation, rule: str, best: Evaluation) -> str:
    """Say in one sentence how an agent stands beside random and the best rule."""
    first = reports.compare(name, e.mean, e.standard_error, "random", random.mean, random.standard_error)
    if best.mean == random.mean:
        return f"{first}; no rule without learning does better than random here."
    second = reports.compare("it", e.mean, e.standard_error, rule, best.mean, best.standard_error)
    return f"{first}; {second}."


def _why_greed_loses(results: dict[str, Evaluation]) -> list[str]:
    losers = [name for name in ("supervised", "linucb") if results[name].mean < results["random"].mean]
    if not losers:
        return []
    return [
        f"Why {' and '.join(losers)} lose to random: they learned, correctly, that the sweeter of two items engages more "
        "right now, and so they serve chocolate at every step. Satisfaction falls, and every later engagement with it. "
        "Choosing at random at least lets the user recover."
    ]


def _pictures(
    numbers: dict[str, Any],
    curves: dict[str, list[dict[str, Any]]],
    sessions: dict[str, Session],
    references: References,
    best: str,
) -> dict[str, Any]:
    """Return the figures of one world's section as SVG."""
    lines = {"random": references.rules["random"].mean, "ceiling": references.ceiling.mean}
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
            plots.to_svg(draw(s, name, limits), f"One session under {name}: {len(s)} steps, {sum(s.reward):.0f} reward")
            for name, s in sessions.items()
        ],
    }


def _judge_open_bandit(logs: Path, download: bool, say: Any) -> dict[str, Any] | None:
    """Judge Thompson's starting policy on the random log of the Open Bandit sample; None where it cannot be had."""
    path = logs / "open-bandit-random-all"
    try:
        import_open_bandit(path, "random", "all", None, download, overwrite=True)
    except InputError as error:
        say(f"the Open Bandit sample is not here ({error}); judging on a simulated log instead")
        return None
    judged = judge(path, ["thompson"])
    shown = Log(path).source["on_policy"]["thompson"]
    truth = {"mean": shown["mean"], "standard_error": shown["standard_error"]}
    numbers = judged.to_json() | {"log": "open-bandit", "truth": truth | {"of": "Thompson's own log"}}
    story = (
        "10,000 real impressions of a fashion shop, shown at random, with the probability of each and whether it was "
        "clicked (Open Bandit sample, campaign “all”, Saito et al. 2021). What would a Thompson-sampling policy have "
        "earned? The table estimates it from the random log alone; the square beside the estimates is what the shop's own "
        "Thompson log shows."
    )
    note = (
        "The judged policy is Thompson sampling as it was when the experiment began (its priors, by Monte Carlo). The "
        "one that made the Thompson log went on learning, so the two need not agree; and with 38 clicks among 10,000 "
        "impressions, nothing here can be known to better than about 15 %."
    )
    return {"numbers": numbers, "page": _judged_page(judged, story, note, {"Thompson's own log": truth})}


def _judge_simulation(logs: Path, seed: int) -> dict[str, Any]:
    """Judge a rule on a simulated log of first decisions, where the truth can be simulated too."""
    path = logs / "first-decisions"
    settings: dict[str, Any] = {"slate_size": 1, "horizon": 1}
    env = make("interest-evolution", 20_000, seed, **settings)
    source = {
        "kind": "simulation",
        "world": env.full_name,
        "settings": env.settings.model_dump(mode="json"),
        "seed": seed,
    }
    with LogWriter(path, env.spec, source | {"policy": "random"}, overwrite=True) as writer:
        simulate(env.rule("random", seed), env, env.users, writer.add)
    judged = judge(path, ["myopic"])
    fresh = make("interest-evolution", 20_000, EVALUATION_SEED, **settings)
    true = evaluate(fresh.rule("myopic"), fresh, 200_000)
    truth = {"mean": true.mean, "standard_error": true.standard_error}
    numbers = judged.to_json() | {
        "log": "simulated first decisions",
        "truth": truth | {"of": "simulation of the policy"},
    }
    story = (
        "Without the real log at hand, a simulated one: 20,000 first decisions for new users of interest evolution, one "
        "item each, shown at random. What would the myopic rule have earned with its first decision? The table estimates "
        "it from the random log alone; the square beside the estimates is the truth, from simulating that rule."
    )
    note = "A real log (1.4 MB) takes this place when `slatewise demo` may fetch it."
    return {"numbers": numbers, "page": _judged_page(judged, story, note, {"truth (simulated)": truth})}


def _judged_page(judged: Any, story: str, note: str, truths: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the words, the table and the picture of the off-policy section."""
    values = judged.to_json()
    logged = judged.logged
    rows = [
        {"name": f"{name}, {estimator}", "kind": "", "value": f"{e['value']:.5f}",
         "interval": f"{e['low']:.5f} to {e['high']:.5f}", "size": f"{e['effective_sample_size']:,.0f}"}
        for name, table in values["policies"].items()
        for estimator, e in table.items()
    ]  # fmt: skip
    rows.append({"name": "logged policy", "kind": "reference", "value": f"{logged.value:.5f}",
                 "interval": f"{logged.low:.5f} to {logged.high:.5f}", "size": "–"})  # fmt: skip
    references = {"logged policy": (logged.value, (logged.high - logged.low) / 3.92)}
    for name, truth in truths.items():
        low, high = truth["mean"] - 1.96 * truth["standard_error"], truth["mean"] + 1.96 * truth["standard_error"]
        rows.append({"name": name, "kind": "reference", "value": f"{truth['mean']:.5f}",
                     "interval": f"{low:.5f} to {high:.5f}", "size": "–"})  # fmt: skip
        references[name] = (truth["mean"], truth["standard_error"])
    picture = plots.to_svg(plots.estimates(values["policies"], references), "Off-policy estimates with intervals")
    return {"story": story, "verdict": judged.verdict, "rows": rows, "note": note, "picture": picture}


def _print_table(act: Act, numbers: dict[str, Any]) -> None:
    best, ceiling = numbers["best_rule"], numbers["ceiling"]
    rows = [{"policy": name, **values} for name, values in numbers["policies"].items()]
    if best["name"] not in numbers["policies"]:
        rows.append({"policy": f"{best['name']} (best rule)"} | {k: v for k, v in best.items() if k != "name"})
    rows.append(
        {"policy": f"ceiling ({ceiling['kind']})", "mean": ceiling["mean"], "standard_error": ceiling["standard_error"]}
    )
    print_table(f"{act.title} ({act.world})", rows, errors=True)


def _silent(*_: Any) -> None:
    pass
