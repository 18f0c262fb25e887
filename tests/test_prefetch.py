import threading
import time
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream.prefetch import prefetched


@given(st.lists(st.integers()), st.integers(0, 4))
def test_items_come_in_order(items, ahead):
    assert list(prefetched(items, ahead)) == items


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_is_made_than_may_lie_ahead(ahead):
    made = []

    def make():
        for number in range(50):
            made.append(number)
            yield number

    for number in islice(prefetched(make(), ahead), 20):
        time.sleep(0.002)
        assert len(made) <= number + 1 + ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sadstream")]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_an_error_comes_where_the_item_would_have_come(ahead):
    def make():
        yield 1
        yield 2
        raise KeyError("third")

    items = prefetched(make(), ahead)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(items)
    assert not threads()


def test_closing_ends_the_thread():
    items = prefetched(iter(range(1000)), 2)
    assert next(items) == 0 and threads()
    items.close()
    assert not threads()
    for number in prefetched(iter(range(1000)), 2):
        if number == 3:
            break
    assert not threads()
