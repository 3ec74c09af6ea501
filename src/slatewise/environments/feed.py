"""Feed: users who tire of a topic, drift towards what they click, leave when dissatisfied, and come back or do not.

Clicks, boredom and influence are those of SARDINE (Deffayet et al. 2023, arXiv 2311.16586), from the paper: independent
clicks by relevance and position; enough clicks on one topic within five pages close the user to it for five; a click
pulls taste towards what was clicked (its public code pulls every topic alike: it averages over topics too). Leaving and
returning stand for KuaiSim's leave and retention modules (Zhao et al. 2023, arXiv 2309.12645): where those are networks
fitted to a data set, here a dissatisfied user leaves with a hazard and returns after days, in closed form and ours.
"""

from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.environments.base import (
    Environment,
    Reference,
    References,
    SlateRule,
    State,
    WorldSettings,
    check_observe,
)
from slatewise.interactions import Catalogue, Observation, Response, Spec
from slatewise.noise import Noise, SessionNoise
from slatewise.slates import top_k

TOPICS = 10
ITEMS = 1000
PAGES = 100
OFFSET, SLOPE = 0.65, 10.0  # relevance is σ(slope (item · taste − offset))
EXAMINATION = 0.85  # the next slot is looked at with this probability times the last one's
WINDOW = 5  # steps in which clicks bore, and for which a topic is closed
SMALL_TASTE = (6 / 7, 3 / 7, 2 / 7)  # for the three topics of `small`, of length 1: 89, 10 and 3 % are clicked
MEMORY = 0.8  # of satisfaction, from one page to the next
ENOUGH = 2.0  # clicks a page that content a user
HAZARD = 0.3  # of leaving after a page, with no satisfaction at all
RETURN = (0.1, 0.9)  # probability of returning on a day, with no satisfaction and with all
SHORT = 0.5  # satisfaction at the beginning

# Mean return ± standard error of random, favourites, varied (20,000 sessions, `benchmarks/worlds.py --seed 2026`), by
# boredom, influence, leaving, days and reward; 20 candidates, pages of 5. No optimum is known, so there is no ceiling.
REFERENCES = {
    (5, 0.05, True, 0, "clicks"): ((2.373, 0.018), (4.919, 0.041), (5.162, 0.046)),
    (5, 0.05, False, 0, "clicks"): ((44.888, 0.050), (90.831, 0.072), (99.835, 0.107)),
    (0, 0.0, False, 0, "clicks"): ((42.570, 0.050), (142.230, 0.165), (54.344, 0.064)),
    (5, 0.05, True, 30, "clicks"): ((24.199, 0.081), (104.354, 0.246), (118.772, 0.328)),
    (5, 0.05, True, 30, "visits"): ((9.156, 0.019), (12.445, 0.021), (13.053, 0.022)),
}
# What `variant=small` sets where nothing else is asked for, and its returns; its optimum is `feed_optimum`'s.
SMALL = {"candidates": 3, "slate_size": 1, "boredom": 4, "influence": 0.0, "leaving": False, "horizon": 20}
SMALL_REFERENCES = References(
    {"random": Reference(6.494, 0.013), "favourites": Reference(9.221, 0.006), "varied": Reference(9.221, 0.006)},
    Reference(13.053, 0.0, "exact"),
)


class Settings(WorldSettings):
    """Settings of the feed."""

    variant: Literal["sardine", "small"] = Field(
        "sardine", description="small: three items of one topic each, one shown, and all users alike"
    )
    candidates: int = Field(20, ge=1, le=ITEMS, description="items offered to the policy at every step")
    slate_size: int = Field(5, ge=1, le=100, description="items of a page")
    boredom: int = Field(5, ge=0, description="clicks on a topic within five pages that close it for five; 0: never")
    influence: float = Field(0.05, ge=0, lt=1, description="how far clicks pull taste towards what was clicked; 0: not")
    leaving: bool = Field(True, description="dissatisfied users leave; false: a session is `horizon` pages")
    days: int = Field(0, ge=0, le=365, description="days that users are followed over their visits; 0: one visit each")
    reward: Literal["clicks", "visits"] = Field(
        "clicks", description="clicks, or 1 whenever a user who left comes back within the days"
    )
    horizon: int | None = Field(None, ge=1, description="truncate after so many pages; default 100, with days never")
    observe: tuple[str, ...] = Field((), description="hidden state to show: taste, closed, satisfaction")

    @model_validator(mode="before")
    @classmethod
    def _small_by_default(cls, values: dict[str, Any]) -> dict[str, Any]:
        return SMALL | values if values.get("variant") == "small" else values

    @model_validator(mode="after")
    def _small_is_small(self) -> "Settings":
        if self.variant == "small" and (self.candidates, self.slate_size) != (3, 1):
            raise ValueError("variant=small offers three items and shows one: leave candidates and slate_size alone")
        return self

    @model_validator(mode="after")
    def _visits_take_days(self) -> "Settings":
        if (self.days > 0 or self.reward == "visits") and not self.leaving:
            raise ValueError("who does not leave does not come back: days and reward=visits need leaving=true")
        if self.reward == "visits" and self.days == 0:
            raise ValueError("reward=visits needs days to come back in: set days=30, for instance")
        return self


class Feed(Environment):
    """Users of a feed, over one visit or many."""

    name = "feed"
    version = 1
    summary_text = "topics bore, clicks pull taste, dissatisfied users leave and come back or do not"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings."""
        self._settings = s = cast(Settings, settings)
        check_observe(self.name, s.observe, ("taste", "closed", "satisfaction"))
        self.horizon = s.horizon or (None if s.days else PAGES)
        self.catalogue = (catalogue() if s.variant == "sardine" else small_catalogue()).to(self.device)
        self._main_topic = self.catalogue.features.argmax(1)
        self._looked = EXAMINATION ** torch.arange(s.slate_size, device=self.device)
        topics = range(TOPICS)
        hidden = {
            "taste": [f"taste_{t}" for t in topics],
            "closed": [f"closed_{t}" for t in topics],
            "satisfaction": ["satisfaction"],
        }
        self.spec = Spec(
            user=(
                *(f"liked_{t}" for t in topics),
                *(f"recent_{t}" for t in topics),
                "clicks",
                "last_page",
                *(("day", "days_away") if s.days else ()),
                *(name for key in s.observe for name in hidden[key]),
            ),
            catalogue=tuple(f"topic_{t}" for t in topics),
            items=(),
            signals=("relevance",),
            candidates=s.candidates,
            slate_size=s.slate_size,
            history=s.history,
        )

    @property
    def settings(self) -> Settings:
        """The settings this world was made with."""
        return self._settings

    def begin(self, noise: Noise) -> State:
        """Return new users: three to five topics each, and nothing seen yet."""
        weights, order = noise.uniform(TOPICS), noise.uniform(TOPICS)
        count = 3 + noise.integers(3, 1)
        taste = _unit(weights * (order.argsort(1).argsort(1) < count))
        if self._settings.variant == "small":
            taste = torch.zeros_like(taste)
            taste[:, : len(SMALL_TASTE)] = taste.new_tensor(SMALL_TASTE)
        none = torch.zeros_like(taste[:, 0])
        return {
            "taste": taste,
            "liked": torch.zeros_like(taste),
            "clicks": none,
            "last_page": none,
            "recent": taste.new_zeros(len(taste), WINDOW, TOPICS),
            "closed": torch.zeros_like(taste),
            "satisfaction": torch.full_like(none, SHORT),
            "day": none,
            "away": none,
        }

    def sample_candidates(self, noise: Noise) -> State:
        """Return different items: one from each of C equal parts of the catalogue, int64 [n, C]."""
        parts = torch.arange(self._settings.candidates + 1, device=self.device)
        edges = parts * len(self.catalogue) // self._settings.candidates
        width = edges[1:] - edges[:-1]
        return {"item": edges[:-1] + (noise.uniform(self._settings.candidates) * width).long().clamp(max=width - 1)}

    def hidden(self) -> dict[str, Tensor]:
        """Return satisfaction (0 to 1), how many topics are closed, and the day."""
        closed = (self.state["closed"] > 0).sum(1)
        days = {"day": self.state["day"]} if self._settings.days else {}
        return {"satisfaction": self.state["satisfaction"], "closed_topics": closed.float()} | days

    def observe(self) -> Observation:
        """Show the mean of what was clicked, clicks by topic in the last pages, and what is asked for."""
        state, s = self.state, self._settings
        columns = [
            state["liked"] / state["clicks"].clamp(min=1).unsqueeze(1),
            state["recent"].sum(1) / max(s.boredom, 1),
            state["clicks"].unsqueeze(1) / PAGES,
            state["last_page"].unsqueeze(1) / s.slate_size,
        ]
        if s.days:
            columns += [state["day"].unsqueeze(1) / s.days, state["away"].unsqueeze(1) / s.days]
        shown = {"taste": state["taste"], "closed": state["closed"] / WINDOW}
        columns += [shown.get(key, state["satisfaction"].unsqueeze(1)) for key in s.observe]
        item = self.candidates["item"]
        return Observation(torch.cat(columns, 1), item, columns[0].new_empty(*item.shape, 0), self.catalogue)

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Click what appeals, and let boredom, taste and satisfaction follow; leave, and come back or not."""
        item = self.candidates["item"].gather(1, slate)
        uniforms = noise.uniform(self._settings.slate_size + 2)
        relevance = self.relevance(item)
        clicked = uniforms[:, : slate.shape[1]] < relevance * self._looked
        self._tire(self._main_topic[item], clicked)
        self._pull(self.catalogue.features[item], clicked)
        clicks = clicked.sum(1).float()
        self.state["last_page"] = clicks
        content = (clicks / ENOUGH).clamp(max=1)
        self.state["satisfaction"] = MEMORY * self.state["satisfaction"] + (1 - MEMORY) * content
        returned, finished = self._leave(uniforms[:, -2], uniforms[:, -1])
        return self._response(clicked, relevance, returned), finished

    def relevance(self, item: Tensor) -> Tensor:
        """Return the appeal of items [B, P] to the present users, in (0, 1): σ(slope (item · open taste − offset))."""
        open_taste = self.state["taste"] * (self.state["closed"] == 0)
        return appeal(torch.einsum("bpt,bt->bp", self.catalogue.features[item], open_taste))

    def _tire(self, topic: Tensor, clicked: Tensor) -> None:
        """Count clicks by topic [B, K] over the last pages; topics clicked often enough are closed for a while."""
        page = torch.zeros_like(self.state["closed"]).scatter_add(1, topic, clicked.float())
        self.state["recent"], self.state["closed"] = tired(
            self.state["recent"], self.state["closed"], page, self._settings.boredom
        )

    def _pull(self, features: Tensor, clicked: Tensor) -> None:
        """Move taste towards the mean of what was clicked, and remember what that was."""
        number = clicked.sum(1, keepdim=True)
        total = (features * clicked.unsqueeze(2)).sum(1)
        self.state["liked"] = self.state["liked"] + total
        self.state["clicks"] = self.state["clicks"] + number.squeeze(1)
        taste, pull = self.state["taste"], self._settings.influence
        pulled = _unit((1 - pull) * taste + pull * total / number.clamp(min=1))
        self.state["taste"] = torch.where(number > 0, pulled, taste)

    def _leave(self, uniform: Tensor, days: Tensor) -> tuple[Tensor, Tensor]:
        """Return who left and came back within the days, and who is finished, bool [B] each."""
        s, satisfaction = self._settings, self.state["satisfaction"]
        nobody = torch.zeros_like(uniform, dtype=torch.bool)
        if not s.leaving:
            return nobody, nobody
        left = uniform < 1 - torch.exp(-HAZARD * (1 - satisfaction))
        if not s.days:
            return nobody, left
        chance = RETURN[0] + (RETURN[1] - RETURN[0]) * satisfaction
        gap = 1 + (torch.log1p(-days) / torch.log1p(-chance)).floor()  # geometric
        day = torch.where(left, self.state["day"] + gap, self.state["day"])
        finished = day >= s.days
        back = left & ~finished
        self.state["day"] = day.clamp(max=float(s.days))
        self.state["away"] = torch.where(back, gap, self.state["away"])
        self.state["satisfaction"] = torch.where(back, (satisfaction + SHORT) / 2, satisfaction)
        for key in ("recent", "closed"):
            there = back.view(-1, *[1] * (self.state[key].ndim - 1))
            self.state[key] = torch.where(there, 0.0, self.state[key])
        return back, finished

    def _response(self, clicked: Tensor, relevance: Tensor, returned: Tensor) -> Response:
        by_clicks = self._settings.reward == "clicks"
        reward = clicked.double() * by_clicks
        known = torch.ones_like(returned)
        return Response(clicked, relevance.unsqueeze(2), reward, returned.double() * (not by_clicks), known)

    def chances(self, slate: Tensor) -> Tensor:
        """Return the probability of each slot's click, independent of the others, then of none, float64 [B, K + 1]."""
        clicks = (self.relevance(self.candidates["item"].gather(1, slate)) * self._looked).double()
        return torch.cat([clicks, (1 - clicks).prod(1, keepdim=True)], 1)

    def expectation(self, slate: Tensor) -> Tensor:
        """Return the expected number of clicks, float64 [B]; coming back is not known in closed form."""
        if self._settings.reward != "clicks":
            return super().expectation(slate)
        return self.chances(slate)[:, :-1].sum(1)

    @property
    def references(self) -> References | None:
        """Return the returns of random and of rules that see what is clicked; only that of `small` has a ceiling."""
        s = self._settings
        if s.variant == "small":
            return SMALL_REFERENCES if all(getattr(s, key) == value for key, value in SMALL.items()) else None
        known = REFERENCES.get((s.boredom, s.influence, s.leaving, s.days, s.reward))
        usual = s.candidates == 20 and s.slate_size == 5 and s.resample == "step" and s.horizon is None
        if known is None or not usual:
            return None
        return References({n: Reference(*known[i]) for i, n in enumerate(("random", "favourites", "varied"))})

    @property
    def rules(self) -> dict[str, SlateRule]:
        """Return `favourites` and `varied`, from what was clicked, and `myopic` where taste is shown."""
        rules: dict[str, SlateRule] = {"favourites": self._favourites, "varied": self._varied}
        return rules | ({"myopic": self._myopic} if "taste" in self._settings.observe else {})

    def _favourites(self, observation: Observation, k: int) -> Tensor:
        """Show what is most like what was clicked."""
        return top_k(self._likeness(observation, observation.user[:, :TOPICS]), observation.mask, k)

    def _varied(self, observation: Observation, k: int) -> Tensor:
        """The same, but topics count less the nearer their clicks are to boring."""
        open_topics = (1 - observation.user[:, TOPICS : 2 * TOPICS]).clamp(min=0)
        return top_k(self._likeness(observation, observation.user[:, :TOPICS] * open_topics), observation.mask, k)

    def _myopic(self, observation: Observation, k: int) -> Tensor:
        """Show what is most relevant now, from taste and, where shown, closed topics."""
        names = self.spec.user
        at = names.index("taste_0")
        taste = observation.user[:, at : at + TOPICS]
        if "closed" in self._settings.observe:
            at = names.index("closed_0")
            taste = taste * (observation.user[:, at : at + TOPICS] == 0)
        return top_k(self._likeness(observation, taste), observation.mask, k)

    def _likeness(self, observation: Observation, taste: Tensor) -> Tensor:
        return observation.products(taste, self.catalogue.features)


def appeal(products: Tensor) -> Tensor:
    """Return the probability that an item looked at is clicked, from its product with the taste for open topics."""
    return torch.sigmoid(SLOPE * (products - OFFSET))


def tired(recent: Tensor, closed: Tensor, page: Tensor, boredom: int) -> tuple[Tensor, Tensor]:
    """Return what clicks on a page do to `recent` and `closed`.

    recent: clicks by topic in the last pages, newest last, [B, 5, topics].  closed: pages for which topics are still
    closed, [B, topics].  page: clicks by topic on the new page, [B, topics].  boredom: clicks that close, 0: none.
    """
    recent = torch.cat([recent[:, 1:], page.unsqueeze(1)], 1)
    left = (closed - 1).clamp(min=0)
    if boredom:
        left = torch.where((recent.sum(1) >= boredom) & (left == 0), float(WINDOW), left)
    return recent, left


def small_catalogue() -> Catalogue:
    """Return the items of `small`: one a topic."""
    topics = range(len(SMALL_TASTE))
    return Catalogue.of(torch.eye(TOPICS)[: len(topics)], [f"topic_{t}" for t in topics])


def catalogue() -> Catalogue:
    """Return the items: two or three topics each, weights uniform, of length 1; the same in every feed.

    Their names tell the topics, the one whose clicks bore first: `item_621 (1+6+2)`.
    """
    noise = SessionNoise(0, torch.arange(ITEMS), torch.zeros(ITEMS, dtype=torch.int64))
    weights, order = noise.uniform(TOPICS), noise.uniform(TOPICS)
    count = 2 + noise.integers(2, 1)
    features = _unit(weights * (order.argsort(1).argsort(1) < count))
    topics = [ranked[: int(n)] for ranked, n in zip(features.argsort(1, descending=True).tolist(), count, strict=True)]
    return Catalogue.of(features, [f"item_{i} ({'+'.join(map(str, t))})" for i, t in enumerate(topics)])


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
