"""What hypothesis draws: dialects, and schedules of deletions, late rows and arrivals."""

from hypothesis import strategies as st

from .simulation import Move, Speech

shares = st.floats(0, 1, allow_nan=False)

moves = st.one_of(
    st.just(Move()),
    st.builds(
        Move,
        deletes=st.lists(st.one_of(st.just(0.0), shares), max_size=6).map(tuple),
        inserts=st.lists(st.one_of(st.just(0.0), shares), max_size=4).map(tuple),
        appends=st.integers(0, 6),
    ),
)
"""Deletions at the head or anywhere, late rows, arrivals at the end; few or as many as a page."""

schedules = st.lists(moves, max_size=24)

ids = st.sampled_from(["unique", "repeated", "missing", "mixed"])
"""What `eventLogId` is: see `simulation.event`."""

sizes = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 10, 13, 20, 50])
counts = st.one_of(st.integers(0, 60), st.sampled_from([100, 128, 173]))


def _plain(speech: Speech) -> bool:
    """Whether a page cut short in silence cannot look like the whole list.

    A cap of 8 of which nothing is said, and a total of 8 (pages, or half of the rows), look like 8
    rows in all.
    """
    return speech.cap is None or speech.echo_cap or speech.total not in {"pages", "half"}


honest = st.builds(
    Speech,
    offset=st.sampled_from(["page", "row"]),
    total=st.sampled_from(["rows", "pages", "absent", "zero", "half"]),
    cap=st.sampled_from([None, 8, 16, 23]),
    echo_cap=st.booleans(),
    past_end=st.sampled_from(["empty", "310149", "error", "404"]),
).filter(_plain)
"""Pages are contiguous, whatever their numbers mean and whatever is said about them."""

lying = st.builds(
    Speech,
    offset=st.sampled_from(["page", "row", "clamped", "ignored"]),
    total=st.sampled_from(["rows", "pages", "absent", "zero", "half", "double"]),
    past_end=st.sampled_from(["empty", "310149", "error", "404", "endless"]),
    hole=st.sampled_from([None, 1, 3]),
    short=st.sampled_from([None, 0, 2]),
    repeat=st.sampled_from(["no", "extra", "instead"]),
)
"""Pages that lack rows or repeat them, servers that never end or send the same page again."""
