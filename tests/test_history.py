import torch

from slatewise.history import interaction_features, push, summary_increment
from slatewise.interactions import Catalogue, Decision, Observation, Response, SummaryColumn

COLUMNS = (
    SummaryColumn("watched", ("watch",), 0.005),
    SummaryColumn("watched_quality", ("watch", "quality"), 0.25),
    SummaryColumn("clicks", (), 2.0),
    SummaryColumn("no_clicks", (), 0.5, no_click=True),
)
SIGNALS = ("quality", "watch")  # not in the order of the columns
ROWS, CANDIDATES, SLOTS = 40, 6, 3


def random_record() -> tuple[Observation, Decision, Response]:
    """Forty decisions with 0 to 3 clicks each; some slates have holes."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 5, (ROWS, CANDIDATES), generator=generator)
    seen = Observation(
        torch.zeros(ROWS, 1),
        ids,
        torch.randn(ROWS, CANDIDATES, 2, generator=generator),
        Catalogue.of(torch.randn(5, 3, generator=generator)),
    )
    slate = torch.rand(ROWS, CANDIDATES, generator=generator).argsort(1)[:, :SLOTS]
    slate[::5, 2] = -1
    clicked = (torch.rand(ROWS, SLOTS, generator=generator) < 0.4) & (slate >= 0)
    signals = torch.randn(ROWS, SLOTS, 2, generator=generator)
    nothing = torch.zeros(ROWS, SLOTS).double()
    response = Response(clicked, signals, nothing, nothing[:, 0], torch.ones(ROWS, dtype=torch.bool))
    assert {0, 1, 2} <= set(clicked.sum(1).tolist())
    return seen, Decision(slate, torch.ones(ROWS, SLOTS).double()), response


def test_a_summary_adds_what_was_clicked() -> None:
    _, _, response = random_record()
    found = summary_increment(COLUMNS, SIGNALS, response)
    for row in range(ROWS):
        watched = watched_quality = clicks = 0.0
        for slot in range(SLOTS):
            if response.clicked[row, slot]:
                quality, watch = response.signals[row, slot].tolist()
                watched += 0.005 * watch
                watched_quality += 0.25 * watch * quality
                clicks += 2.0
        expected = [watched, watched_quality, clicks, 0.5 if clicks == 0 else 0.0]
        torch.testing.assert_close(found[row], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_few_rows_add_as_many_do() -> None:
    """To the bit, whatever is clicked: plain numbers for up to 8 rows, tensors for more."""
    _, _, response = random_record()
    together = summary_increment(COLUMNS, SIGNALS, response)
    for rows in (1, 5, 8):
        parts = [summary_increment(COLUMNS, SIGNALS, response[at : at + rows]) for at in range(0, ROWS, rows)]
        assert torch.equal(torch.cat(parts), together)
    assert summary_increment(COLUMNS, SIGNALS, response[:0]).shape == (0, 4)
    assert summary_increment((), SIGNALS, response[:1]).shape == (1, 0)


def test_a_remembered_interaction_is_the_mean_of_what_was_clicked_and_two_flags() -> None:
    seen, decision, response = random_record()
    found = interaction_features(seen, decision, response)
    assert found.shape == (ROWS, 3 + 2 + 2 + 2)
    for row in range(ROWS):
        chosen = []
        for slot, position in enumerate(decision.slate[row].tolist()):
            if response.clicked[row, slot]:
                shared = seen.catalogue.features[seen.item_ids[row, position]]
                chosen.append(torch.cat([shared, seen.items[row, position], response.signals[row, slot]]))
        mean = torch.stack(chosen).mean(0) if chosen else torch.zeros(7)
        expected = torch.cat([mean, torch.tensor([0.0 if chosen else 1.0, 1.0])])
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-6)


def test_push_forgets_the_oldest_and_keeps_the_given_history() -> None:
    history = torch.zeros(2, 3, 1)
    for step in range(1, 5):
        before = history.clone()
        longer = push(history, torch.tensor([[float(step)], [10.0 * step]]))
        assert torch.equal(history, before)
        history = longer
    assert history[:, :, 0].tolist() == [[2, 3, 4], [20, 30, 40]]
