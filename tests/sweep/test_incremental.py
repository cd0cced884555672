"""Rows on the server against rows in files, as multisets: nothing is lost, nothing comes twice."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.sweep.fetch import reconcile

KEYS = st.lists(st.integers(0, 12), max_size=25)  # few, so that many repeat


@given(KEYS, KEYS, st.data())
def test_what_is_written_makes_files_equal_to_the_server(
    server: list[int], written: list[int], data: st.DataObject
):
    gone = data.draw(st.lists(st.sampled_from(written), max_size=5)) if written else []
    deleted = Counter(gone) & Counter(written)
    found = reconcile(server, written, deleted)
    new, restored = ([server[index] for index in part] for part in (found.new, found.restored))
    vanished = [written[index] for index in found.vanished]
    now_written = Counter([*written, *new])
    now_deleted = deleted + Counter(vanished) - Counter(restored)
    assert now_deleted == found.deleted
    assert now_written - now_deleted == Counter(server)
    assert not now_deleted - now_written
    assert Counter(restored) <= deleted
    assert not Counter(restored) & Counter(vanished)


@given(KEYS, KEYS)
def test_late_rows_stand_before_one_that_was_there(before: list[int], added: list[int]):
    new = [key + 100 for key in added]
    assert reconcile([*before, *new], before, Counter()).late == 0
    assert reconcile([*new, *before], before, Counter()).late == (len(new) if before else 0)


@given(KEYS)
def test_nothing_new_is_nothing_to_do(keys: list[int]):
    found = reconcile(keys, keys, Counter())
    assert [*found.new, *found.restored, *found.vanished, *found.deleted] == []
    assert found.late == 0


@given(KEYS)
def test_what_vanished_comes_back(keys: list[int]):
    gone = reconcile([], keys, Counter())
    assert [keys[index] for index in gone.vanished] == keys
    back = reconcile(keys, keys, gone.deleted)
    assert [*back.restored] == [*range(len(keys))]
    assert [*back.new, *back.vanished, *back.deleted] == []
