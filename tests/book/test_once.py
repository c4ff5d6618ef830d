"""What workers share is made once (`once` in `conftest.py`), also when two ask at the same time or the maker fails."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest


def test_a_folder_is_filled_once_for_all_who_ask(once):
    filled = []

    def fill(place):
        filled.append(place)
        time.sleep(0.2)
        (place / "content").touch()

    with ThreadPoolExecutor(2) as pool:
        places = list(pool.map(lambda _: once("asked for twice", fill), range(2)))
    assert len(filled) == 1 and places[0] == places[1]
    assert [path.name for path in places[0].iterdir()] == ["content"]


def test_what_failed_fails_for_all_and_is_not_tried_again(once):
    def fill(place):
        raise RuntimeError("the book does not build")

    with pytest.raises(RuntimeError):
        once("fails", fill)
    with pytest.raises(pytest.fail.Exception, match="the book does not build"):
        once("fails", lambda place: None)


def test_what_a_dead_worker_left_is_not_taken_for_the_whole(once):
    def die(place):
        (place / "half").touch()
        raise KeyboardInterrupt  # like a kill, it leaves without a word

    with pytest.raises(KeyboardInterrupt):
        once("begun", die)
    assert not list(once("begun", lambda place: None).iterdir())
