"""The command line: thin, each verb a call into the library and a table of what came out."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from slatewise.cli import logs as logs_commands
from slatewise.cli.base import (
    Device,
    Json,
    Overwrite,
    Seed,
    Set,
    Threads,
    Users,
    pairs,
    refuse_of_run,
    use_threads,
    world_of,
)
from slatewise.cli.learn import learn_from
from slatewise.cli.ope import ope
from slatewise.cli.resume import begun, command
from slatewise.cli.watch import watch
from slatewise.errors import InputError
from slatewise.output import only, print_json, print_table, show

app = typer.Typer(
    name="slatewise",
    help="Reinforcement learning for recommender systems, from contextual bandits to SlateQ.",
    epilog="Begin with: slatewise demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(logs_commands.app, name="logs")
app.command()(watch)


def main() -> None:
    """Run the command line; bad input is one line and exit code 2."""
    warnings.showwarning = _warn
    try:
        app()
    except InputError as error:
        print(f"slatewise: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"slatewise: {error.filename}: {error.strerror}: give another path", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # typer says nothing of its own
            print("slatewise: interrupted", file=sys.stderr)
        raise


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"slatewise: warning: {message}", file=sys.stderr)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"slatewise {version('slatewise')}")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """Reinforcement learning for recommender systems, from contextual bandits to SlateQ."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for report.html, the runs and the logs")] = Path("demo"),
    seed: Seed = 0,
    as_json: Json = False,
    threads: Threads = 1,
    quick: Annotated[
        bool, typer.Option(help="a tenth of the training: to see that it runs, not for its numbers")
    ] = False,
    download: Annotated[
        bool, typer.Option(help="fetch the Open Bandit sample (1.4 MB) with pip if it is not here")
    ] = True,
) -> None:
    """Train and judge recommenders on this machine, and write one page that explains what happened.

    Example: slatewise demo --out demo
    """
    use_threads(threads)
    from slatewise.demo import run_demo

    result = run_demo(out, seed=seed, quick=quick, download=download, show=not as_json)
    if as_json:
        print_json(result)


@app.command()
def envs(name: Annotated[str | None, typer.Argument(help="a world to describe")] = None, as_json: Json = False) -> None:
    """List the worlds, or describe one: settings, rules, reference returns.

    Example: slatewise envs interest-evolution
    """
    from slatewise.environments import names, world

    if name is None:
        rows = [{"name": n, "version": world(n).version, "about": world(n).summary_text} for n in names()]
        show(as_json, {"environments": rows}, "worlds", rows)
        return
    env = world(name)(users=1)
    references = {}
    if env.references is not None:
        references = {rule: vars(reference) for rule, reference in env.references.rules.items()}
        references["ceiling"] = vars(env.references.ceiling) if env.references.ceiling else {"kind": "none"}
    described = {
        "name": env.full_name,
        "about": env.summary_text,
        "settings": {row["name"]: row for row in env.Settings.table()},
        "rules": ["random", *env.rules],
        "references": references,
        "observation": {"user": env.spec.user, "catalogue": env.spec.catalogue, "items": env.spec.items},
        "signals": env.spec.signals,
    }
    if as_json:
        print_json(described)
        return
    typer.echo(f"{env.full_name}: {env.summary_text}\nrules: {', '.join(described['rules'])}")
    print_table("settings (--set KEY=VALUE)", env.Settings.table())
    rows = [{"policy": rule, **values} for rule, values in references.items()]
    print_table("known mean returns with the default settings", rows)


@app.command()
def agents(
    name: Annotated[str | None, typer.Argument(help="an agent to describe")] = None, as_json: Json = False
) -> None:
    """List the agents, or describe one and its settings.

    Example: slatewise agents slateq
    """
    from slatewise.agents import AGENTS, agent_class

    if name is None:
        rows = [{"name": n, "about": agent_class(n).summary_text} for n in AGENTS]
        show(as_json, {"agents": rows}, "agents", rows)
        return
    agent = agent_class(name)
    table = agent.Settings.table()
    described = {"name": name, "about": agent.summary_text, "settings": {row["name"]: row for row in table}}
    presets = {key: {**vars(preset), "settings": dict(preset.settings)} for key, preset in agent.presets.items()}
    show(as_json, described | {"presets": presets}, f"{name}: {agent.summary_text}", table)
    if presets and not as_json:
        rows = [
            {
                "name": key,
                "steps": p.steps,
                "settings": " ".join(f"{k}={v}" for k, v in p.settings.items()),
                "for": p.about,
            }
            for key, p in agent.presets.items()
        ]
        print_table("presets (--preset NAME)", rows)


@app.command()
def simulate(
    env_name: Annotated[str, typer.Argument(metavar="ENV", help="a world, see `slatewise envs`")],
    policy: Annotated[str, typer.Option(help="a rule of the world, random, an agent, or a run's folder")] = "random",
    steps: Annotated[
        int, typer.Option(min=1, help="user-steps to simulate, rounded up to whole steps of all users")
    ] = 100_000,
    users: Users = 1000,
    explore_floor: Annotated[float, typer.Option(min=0, max=1, help="probability of a uniform slate")] = 0.0,
    explore: Annotated[bool, typer.Option(help="let a run or an agent explore as in training")] = False,
    settings: Set = None,
    out: Annotated[Path | None, typer.Option(help="write a log of the interactions into this folder")] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Run a policy in a world without learning, and write the log.

    Example: slatewise simulate interest-evolution --policy random --steps 200000 --out logs/random
    """
    use_threads(threads)
    from slatewise.evaluation import simulate as run
    from slatewise.naming import find_policy

    env, agent_settings = world_of(env_name, users, seed, settings, policy, device)
    chosen = find_policy(policy, env, seed, explore_floor, agent_settings, explore)
    if out is None:
        result = run(chosen, env, steps, progress=not as_json)
    else:
        from slatewise.logs import LogWriter
        from slatewise.registry import registered_name

        source = {
            "kind": "simulation",
            "world": registered_name(type(env), env.full_name),
            "settings": env.settings.model_dump(mode="json"),
            "seed": seed,
            "policy": policy,
            "explore_floor": explore_floor,
            "explore": explore,
        }
        with LogWriter(out, env.spec, source, overwrite=overwrite) as log:
            result = run(chosen, env, steps, log.add, progress=not as_json)
    row = result.to_json() | ({"log": str(out)} if out is not None else {})
    show(
        as_json,
        row,
        f"{policy} in {env.full_name}",
        [only(row, *_RETURNS, "steps_per_second", "steps_per_cpu_second")],
    )
    if not as_json and not result.episodes:
        typer.echo("no mean: not every user has finished a session, give more steps")


@app.command()
def train(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="an agent, see `slatewise agents`")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="the run's folder: settings, metrics, checkpoints")],
    env_name: Annotated[str | None, typer.Option("--env", metavar="ENV", help="the world to learn in")] = None,
    log: Annotated[Path | None, typer.Option(metavar="LOG", help="a log to learn from, instead of a world")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="user-steps, rounded up to a whole update; schedules end there  [default: 1,000,000 or preset's]",
        ),
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="users simulated side by side  [default: 256]")] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="settings that go together, see `slatewise agents AGENT`; --set overrides"),
    ] = None,
    settings: Set = None,
    resume: Annotated[
        bool, typer.Option(help="go on from the newest checkpoint in RUN, which knows its world and settings")
    ] = False,
    overwrite: Overwrite = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="fixes every bit of the result on one machine  [default: 0]"),
    ] = None,
    threads: Threads = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train an agent in a world; Ctrl-C leaves a usable run, --resume goes on. Or let one learn from a log.

    From a log learn the bandits, model-planner and reinforce.

    Example: slatewise train slateq --env interest-evolution --steps 2000000 --out runs/slateq
    """
    use_threads(threads)
    had = begun(out, agent, env_name) if resume and log is None else {}
    env_name = env_name or had.get("world")
    if (env_name is None) == (log is None):
        raise InputError("an agent learns in a world or from a log: give --env or --log, and not both")
    if log is not None:
        for option, given in (("preset", preset), ("steps", steps), ("users", users), ("resume", resume or None)):
            if given is not None:
                value = "" if option == "resume" else f" {given}"
                raise InputError(f"--{option}{value} is for learning in a world: leave it out with --log")
        learn_from(log, agent, out, settings, seed or 0, device, overwrite, as_json)
        return
    assert env_name is not None
    from slatewise.agents import agent_class
    from slatewise.naming import agent_for
    from slatewise.training import train as run

    chosen = agent_class(agent).preset(preset) if preset is not None else None
    steps = steps or int(had.get("steps", 0)) or (chosen.steps if chosen else 1_000_000)
    users = users or int(had.get("users", 256))
    seeds = [had.get(key, 0) if seed is None else seed for key in ("world_seed", "agent_seed")]
    env, mine = world_of(env_name, users, seeds[0], settings, agent, device, had.get("world_settings"))
    of_agent = {**had.get("agent_settings", {}), **(chosen.settings if chosen else {}), **mine}
    learner = agent_for(agent, env, seeds[1], **of_agent)
    result = run(learner, env, steps, out, resume, overwrite, progress=not as_json)
    line = result.metrics | {key: value for key, value in result.to_json().items() if key != "metrics"}
    row = only(line, "run", "steps", "updates", "seconds", "cpu_seconds") | only(
        result.metrics, "return", "steps_per_second"
    )
    show(as_json, line, f"{agent} in {env.full_name}", [row])
    if result.had_finished:
        print(f"slatewise: {out} had finished its {steps:,} steps, so nothing was left to do", file=sys.stderr)
    if result.interrupted:
        onwards = command(agent, out, threads, device)
        print(f"slatewise: stopped at {result.steps:,} of {steps:,} steps; go on with: {onwards}", file=sys.stderr)
        raise typer.Exit(130)


@app.command()
def evaluate(
    policy: Annotated[str, typer.Argument(metavar="NAME-or-RUN", help="a run's folder, or with --env a rule or agent")],
    env_name: Annotated[str | None, typer.Option("--env", metavar="ENV", help="the world; a run knows its own")] = None,
    episodes: Annotated[
        int, typer.Option(min=2, help="sessions to average, rounded up to whole rounds of users")
    ] = 2000,
    users: Annotated[
        int | None, typer.Option(min=1, help="users simulated side by side  [default: 1000, or fewer episodes]")
    ] = None,
    explore: Annotated[bool, typer.Option(help="act as in training instead of greedily")] = False,
    paired_with: Annotated[
        str | None, typer.Option(metavar="NAME-or-RUN", help="a policy to compare with: same users, same noise")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="seeds of the world, from --seed on")] = 1,
    out: Annotated[Path | None, typer.Option(help="folder for the return of every session, a JSON file a seed")] = None,
    metrics: Annotated[
        bool,
        typer.Option(help="also click rate, mean signals, coverage, Gini, novelty and diversity of what was shown"),
    ] = False,
    settings: Set = None,
    seed: Seed = 1000,
    threads: Threads = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Mean return of a policy in simulation, its standard error, and its share of the possible gain.

    Example: slatewise evaluate runs/slateq --episodes 2000 --paired-with quality
    """
    use_threads(threads)
    from slatewise.agents import is_agent
    from slatewise.evaluation import evaluate_seeds, over_seeds, save_seeds
    from slatewise.metrics import Tally
    from slatewise.naming import find_policy, is_trained
    from slatewise.runs import make_world, world_of_run

    agent_settings: dict[str, Any] = {}
    users = users or min(1000, episodes)
    if env_name is not None:
        env, agent_settings = world_of(env_name, users, seed, settings, policy, device)
    elif is_trained(policy):
        given = {key.removeprefix("env."): value for key, value in pairs(settings).items()}
        known = world_of_run(policy).Settings.model_fields
        for key in given:
            if key not in known:
                refuse_of_run(policy, key)
        env = make_world(policy, users, seed, device, **given)
    else:
        raise InputError(f"{policy!r} is no run's folder: name one, or a rule or an agent and its world with --env")
    chosen = find_policy(policy, env, seed, settings=agent_settings, explore=explore)
    other = find_policy(paired_with, env, seed) if paired_with is not None else None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    tally = Tally(env.spec) if metrics else None
    count = tally.add if tally is not None else None
    results = evaluate_seeds(chosen, env, episodes, seeds, explore, other, not as_json, count)
    if out is not None:
        save_seeds(out, policy, env, seed, results)
    result = over_seeds(results, env)
    if tally is not None:
        result["metrics"] = tally.metrics().to_json()
    show(as_json, result, f"{policy} in {env.full_name}", [only(result, *_RETURNS)])
    if not as_json and tally is not None:
        found = result["metrics"]
        print_table("what was shown", [found | found.pop("signals")])
    if not as_json and is_agent(policy):
        typer.echo(f"{policy} has learned nothing yet: train it, and evaluate the run's folder")
    if not as_json and env.references is None:
        typer.echo("no share: the returns of random and of the ceiling are not known for these settings")
    if not as_json and "difference" in result:
        difference = result["difference"]
        typer.echo(f"{difference['mean']:+.3f} ± {difference['standard_error']:.3f} to {paired_with}, paired")
    if not as_json and seeds > 1:
        low, high = result["interval"]
        typer.echo(f"interquartile mean of {seeds} seeds {result['interquartile_mean']:.2f} ({low:.2f} to {high:.2f})")
    if not as_json and env.references is not None:
        ceiling, best = env.references.ceiling, env.references.best_rule()
        known = f"({ceiling.kind}) {ceiling.mean:.2f}" if ceiling else "not known"
        typer.echo(
            f"random {env.references.rules['random'].mean:.2f}, best rule without learning: {best} "
            f"{env.references.rules[best].mean:.2f}, ceiling {known}"
        )


app.command()(ope)


_RETURNS = ("mean", "standard_error", "episodes", "mean_length", "share")
