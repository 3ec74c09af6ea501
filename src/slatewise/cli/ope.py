"""`slatewise ope`: judge policies on a log."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from slatewise.cli.base import Json, Seed, Threads, use_threads
from slatewise.output import only, print_json, print_table


def ope(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="a log's folder")],
    policy: Annotated[list[str], typer.Option(help="a rule of the log's world or importer, random, or a run's folder")],
    explore: Annotated[bool, typer.Option(help="judge a run as it explores, not greedily")] = False,
    baseline: Annotated[str, typer.Option(help="what to compare with: logged, or the name of a policy")] = "logged",
    require_better: Annotated[bool, typer.Option(help="exit 3 unless the interval clears the baseline")] = False,
    reward: Annotated[
        str | None, typer.Option(help="what counts, such as 'clicked + 0.1 * watch'  [default: as logged]")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="write a page with pictures")] = None,
    estimator: Annotated[
        list[str] | None,
        typer.Option(help="IPS, SNIPS, cIPS, DM, DR, SNDR, Switch-DR, DRos, MIPS, or all  [default: IPS, SNIPS, DR]"),
    ] = None,
    interval: Annotated[
        str, typer.Option(help="normal, bootstrap, empirical-bernstein, or betting (valid at all times)")
    ] = "normal",
    reward_model: Annotated[str, typer.Option(help="of DM, DR and their kin")] = "ridge",
    reward_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="no reward can lie outside, for the last two intervals  [default: seen]"),
    ] = None,
    smallest_propensity: Annotated[
        float | None,
        typer.Option(help="no slate can be logged with less probability, for the last two intervals", min=0, max=1),
    ] = None,
    groups: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="MIPS: items alike in these columns of the catalogue")
    ] = None,
    logging_policy: Annotated[str, typer.Option(help="MIPS: the policy that logged, as it explored")] = "random",
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Judge policies on a log, before anyone sees them: mean reward per decision, with 95 % intervals.

    Example: slatewise ope logs/random --policy quality --policy runs/slateq --report verdict.html
    """
    use_threads(threads)
    from slatewise.judging import judge

    result = judge(
        log,
        policy,
        explore=explore,
        baseline=baseline,
        seed=seed,
        estimators="all" if estimator == ["all"] else estimator,
        interval=interval,
        reward_model=reward_model,
        reward_range=reward_range,
        smallest_propensity=smallest_propensity,
        groups=groups,
        logging_policy=logging_policy,
        reward=reward,
    )
    if report is not None:
        _write_page(report, result, log, reward)
    if as_json:
        print_json(result.to_json() | ({"report": str(report)} if report is not None else {}))
    else:
        for name, judged in result.policies.items():
            if name != result.baseline:
                typer.echo(f"{judged.verdict}\n")
        rows = [
            {"policy": name, "estimator": estimator, **only(e, "value", "low", "high", "effective_sample_size")}
            for name, table in result.to_json()["policies"].items()
            for estimator, e in table.items()
        ]
        rows.append({"policy": "logged", "estimator": "mean"} | only(vars(result.logged), "value", "low", "high"))
        print_table(f"mean reward per decision, 95 % intervals, {result.decisions:,} decisions", rows)
        for note in result.notes:
            typer.echo(f"note: {note}")
    if require_better and not result.better:
        raise typer.Exit(3)


def _write_page(page: Path, result: Any, log: Path, reward: str | None) -> None:
    from slatewise.judgement_page import about_log, judgement_page
    from slatewise.logs import Log
    from slatewise.reports import write

    write(judgement_page(result, log.name, about_log(Log(log), reward), shlex.join(["slatewise", *sys.argv[1:]])), page)
