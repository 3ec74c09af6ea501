"""MovieLens, on a wheel of the same layout and on the real one where it is at hand; the command line of importers."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import torch

from slatewise.cache import folder as cache_folder
from slatewise.errors import InputError
from slatewise.logs import Log, check, import_movielens
from slatewise.logs.movielens import FOLDER, TERMS, WHEEL

FILMS = [
    (2, "Two", "1996", "Drama Film-Noir"),
    (1, 'One, the "first"', "1985", "Children's"),
    (3, "unkonwn", "unkonwn", "unknown"),
]
USERS = [(7, 20, "F", "none"), (5, 50, "M", "writer")]
RATINGS = [(7, 3, 5, 30), (5, 1, 4, 20), (7, 2, 3, 10), (7, 1, 1, 20)]


FOUND = "user_id:token item_id:token rating:float timestamp:float"


def text(names: str, rows: list[tuple[Any, ...]]) -> str:
    return "\n".join([names.replace(" ", "\t"), *("\t".join(map(str, row)) for row in rows)]) + "\n"


def files() -> dict[str, str]:
    return {
        "item": text("item_id:token movie_title:token_seq release_year:token class:token_seq", FILMS),
        "user": text(
            "user_id:token age:token gender:token occupation:token zip_code:token", [(*u, "x") for u in USERS]
        ),
        "inter": text(FOUND, RATINGS),
    }


def wheel(folder: Path, **changes: str) -> Path:
    path = folder / WHEEL.file
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files() | changes).items():
            archive.writestr(f"{FOLDER}/ml-100k.{name}", content)
    return path


def test_every_rating_is_a_decision_of_its_users_session(tmp_path: Path) -> None:
    log = import_movielens(tmp_path / "log", wheel(tmp_path))
    rows = log.read()
    assert log.propensities == {"kind": "unknown"}
    assert log.source["terms"] == TERMS
    assert "not for commercial" in TERMS
    assert rows.user_id is not None
    assert rows.time is not None
    assert rows.user_id.tolist() == [5, 7, 7, 7]
    assert rows.episode.tolist() == [0, 1, 1, 1]
    assert rows.step.tolist() == [0, 0, 1, 2]
    assert rows.time.tolist() == [20_000_000, 10_000_000, 20_000_000, 30_000_000]
    assert rows.truncated.tolist() == [True, False, False, True]
    assert not rows.terminated.any()
    assert rows.decision.slate[:, 0].tolist() == [0, 1, 0, 2]
    assert log.spec.signals == ("rating", "liked")
    assert rows.response.signals[:, 0].tolist() == [[4, 1], [3, 0], [1, 0], [5, 1]]
    assert rows.response.reward[:, 0].tolist() == [1, 0, 0, 1]
    rating = Log(tmp_path / "log", reward="0.2 * rating").read().response.reward[:, 0]
    assert rating.tolist() == pytest.approx([0.8, 0.6, 0.2, 1])


def test_users_and_films_have_the_features_that_the_names_say(tmp_path: Path) -> None:
    log = import_movielens(tmp_path / "log", wheel(tmp_path))
    assert log.spec.user == ("age", "gender=F", "gender=M", "occupation=none", "occupation=writer")
    of_user = log.read().observation.user
    torch.testing.assert_close(of_user[0], torch.tensor([0.5, 0, 1, 0, 1]))
    torch.testing.assert_close(of_user[1], torch.tensor([0.2, 1, 0, 1, 0]))
    assert log.catalogue is not None
    assert log.catalogue.ids == ('1 One, the "first" (1985)', "2 Two (1996)", "3 unkonwn (unkonwn)")
    genres = ("Children's", "Drama", "Film-Noir", "unknown")
    assert log.spec.catalogue == ("decades_since_1990", *(f"genre={genre}" for genre in genres))
    expected = torch.tensor([[-0.5, 1, 0, 0, 0], [0.6, 0, 1, 1, 0], [0, 0, 0, 0, 1]])
    torch.testing.assert_close(log.catalogue.features, expected)


def test_its_check_says_what_it_is_good_for(tmp_path: Path) -> None:
    report = check(import_movielens(tmp_path / "log", wheel(tmp_path)))
    assert report["propensity"]["kind"] == "unknown"
    assert report["problems"][0].startswith("the propensities are unknown: such a log is good for learning")


def test_all_films_are_candidates_and_take_no_room(tmp_path: Path) -> None:
    log = import_movielens(tmp_path / "log", wheel(tmp_path))
    ids = log.read().observation.item_ids
    assert torch.equal(ids, torch.arange(3).expand(4, 3))
    assert "item_ids" not in pyarrow.parquet.read_schema(tmp_path / "log" / "part-00000.parquet").names


BROKEN = [
    ({"inter": text(FOUND, [(7, 4, 5, 1), (7, 9, 5, 1)])},
     "item_id in line 2 is 4: expected 1 to 3; 2 lines are affected"),
    ({"inter": text(FOUND, [(7, 1, 5, 1), (6, 1, 5, 1)])},
     "user_id in line 3 is 6: expected a user of ml-100k.user; 1 lines"),
    ({"inter": text(FOUND, [(7, 1, 6, 1)])}, "rating in line 2 is 6"),
    ({"inter": text(FOUND, [(7, "x", 6, 1)])}, "cannot be read"),
    ({"inter": text("user_id:token item_id:token rating:float", [(7, 1, 5)])}, "cannot be read"),
    ({"item": text("item_id:token movie_title:token_seq release_year:token class:token_seq", [FILMS[0]])},
     "must count from 1 without gaps"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BROKEN)
def test_broken_data_are_named_and_nothing_is_written(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        import_movielens(tmp_path / "log", wheel(tmp_path, **changes))
    assert [path.name for path in tmp_path.iterdir()] == [WHEEL.file]


def test_without_data_the_remedies_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match=r"no MovieLens data at .*--download, 2.1 MB.* or give the path of recbole-1.2.1"
    ):
        import_movielens(tmp_path / "log")


REAL = cache_folder() / WHEEL.file  # of the user: found before tests get a cache of their own


@pytest.mark.skipif(not REAL.is_file(), reason=f"no {REAL}: slatewise logs import movielens --download")
def test_the_real_wheel(tmp_path: Path) -> None:
    log = import_movielens(tmp_path / "log", REAL)
    rows = log.read()
    assert (len(log), log.sessions, log.spec.candidates) == (100_000, 943, 1682)
    assert log.spec.user[:3] == ("age", "gender=F", "gender=M")
    assert len(log.spec.user) == 3 + 21  # occupations
    assert len(log.spec.catalogue) == 1 + 19  # genres, `unknown` among them
    with zipfile.ZipFile(REAL) as archive:
        options = pyarrow.csv.ParseOptions(delimiter="\t")
        table = pyarrow.csv.read_csv(io.BytesIO(archive.read(f"{FOLDER}/ml-100k.inter")), parse_options=options)
    rating = table["rating:float"].to_numpy()
    assert float(rows.response.total_reward.mean()) == (rating >= 4).mean() == 0.55375
    assert rows.user_id is not None
    pairs = torch.stack([rows.user_id, rows.decision.slate[:, 0] + 1], 1).numpy()
    theirs = np.stack([table["user_id:token"].to_numpy(), table["item_id:token"].to_numpy()], 1)
    assert set(map(tuple, pairs.tolist())) == set(map(tuple, theirs.tolist()))
    assert log.catalogue is not None
    assert log.catalogue.ids is not None
    assert log.catalogue.ids[49] == "50 Star Wars (1977)"
    assert rows.time is not None
    same = rows.episode[1:] == rows.episode[:-1]
    assert bool((rows.time[1:] >= rows.time[:-1])[same].all())
