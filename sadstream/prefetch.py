"""Work done ahead in a background thread."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterable[T], ahead: int) -> Iterator[T]:
    """The same items, in the same order, made in a thread that is up to `ahead` of them before the reader.

    An error is raised where the item would have come. Closing the iterator (or dropping it) ends the thread, after the
    item that it is at.
    """
    if ahead < 1:
        yield from items
        return
    made: queue.SimpleQueue[tuple[bool, T | BaseException | None]] = queue.SimpleQueue()
    room = threading.Semaphore(ahead)
    stopped = threading.Event()

    def make() -> None:
        try:
            iterator = iter(items)
            while True:
                room.acquire()
                if stopped.is_set():
                    return
                made.put((True, next(iterator)))
        except StopIteration:
            made.put((False, None))
        except BaseException as error:  # it belongs to the reader, whatever it is
            made.put((False, error))

    thread = threading.Thread(target=make, name="sadstream-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = made.get()
            if is_item:
                room.release()
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stopped.set()
        room.release()
        thread.join()
