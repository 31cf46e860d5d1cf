"""Which threads can reach an object."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from kvpress_video.utils.reach import reaches


class Wanted:
    def use(self, done: threading.Event) -> None:
        done.wait()


class Holder:
    def __init__(self, held: Any) -> None:
        self.inside = {"parts": [held]}

    def use(self, done: threading.Event) -> None:
        done.wait()


WANTED, OTHER = Wanted(), Wanted()


def by_global(done: threading.Event) -> None:
    done.wait()
    WANTED.use(done)


def by_function(done: threading.Event) -> None:
    done.wait()
    by_global(done)


def by_local(done: threading.Event) -> None:
    mine = WANTED
    done.wait()
    mine.use(done)


def by_default(done: threading.Event, wanted: Wanted = WANTED) -> None:
    done.wait()


def by_nested(done: threading.Event) -> None:
    def later() -> None:
        WANTED.use(done)

    done.wait()
    later()


def to_another(done: threading.Event) -> None:
    done.wait()
    OTHER.use(done)


def by_closure(held: Any) -> Callable[[threading.Event], None]:
    def use(done: threading.Event) -> None:
        done.wait()
        held.use(done)

    return use


REACH: dict[str, Callable[[threading.Event], Any]] = {
    "its method": WANTED.use,
    "an object that holds it": Holder(WANTED).use,
    "a partial call": functools.partial(Holder.use, Holder(WANTED)),
    "a closure": by_closure(WANTED),
    "a global": by_global,
    "a function that names a global": by_function,
    "a local": by_local,
    "a default": by_default,
    "a function inside": by_nested,
}
NO_REACH: dict[str, Callable[[threading.Event], Any]] = {
    "an event": lambda done: done.wait(),
    "another object": to_another,
    "another object by closure": by_closure(OTHER),
    "a queue": lambda done: (queue.Queue[int](), done.wait()),
}


@contextmanager
def waiting(target: Callable[[threading.Event], Any]) -> Iterator[threading.Thread]:
    done = threading.Event()
    thread = threading.Thread(target=target, args=(done,))
    thread.start()
    try:
        yield thread
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("how", REACH)
def test_a_thread_that_reaches_an_object(how: str) -> None:
    with waiting(REACH[how]) as thread:
        assert reaches(thread, WANTED)


@pytest.mark.parametrize("how", NO_REACH)
def test_a_thread_that_does_not(how: str) -> None:
    with waiting(NO_REACH[how]) as thread:
        assert not reaches(thread, WANTED)


def test_a_thread_before_it_runs_and_after_it_ended() -> None:
    done = threading.Event()
    thread = threading.Thread(target=WANTED.use, args=(done,))
    assert reaches(thread, WANTED)
    done.set()
    thread.start()
    thread.join()
    assert not reaches(thread, WANTED)


def test_an_idle_worker_of_a_pool() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        (worker,) = pool._threads
        assert not reaches(worker, WANTED)


def test_what_is_too_large_to_search_counts_as_reached() -> None:
    many = [[number] for number in range(30_000)]
    with waiting(lambda done, held=many: done.wait()) as thread:  # type: ignore[misc]
        assert reaches(thread, WANTED)
