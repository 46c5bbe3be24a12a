import os
import threading

import pytest

from ms_codegeex.base.locks import locked, take_lock


def test_a_lock_is_taken_once_and_released_with_its_descriptor(tmp_path):
    path = tmp_path / "lock"
    descriptor = take_lock(path, wait=False)
    assert path.is_file() and take_lock(path, wait=False) is None
    os.close(descriptor)
    again = take_lock(path, wait=False)
    assert again is not None
    os.close(again)


def test_directories_can_be_locked_and_only_what_exists_is_opened(tmp_path):
    descriptor = take_lock(tmp_path, wait=False, flags=os.O_RDONLY)
    assert take_lock(tmp_path, wait=False, flags=os.O_RDONLY) is None
    os.close(descriptor)
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "missing", wait=False, flags=os.O_RDONLY)
    assert not list(tmp_path.iterdir())


def test_a_process_that_waits_gets_the_file_that_has_the_name_now(tmp_path):
    path, entered = tmp_path / "lock", threading.Event()

    def work():
        with locked(path):
            entered.set()
            assert take_lock(path, wait=False) is None  # it holds the new file, not the removed one

    descriptor = take_lock(path, wait=False)
    thread = threading.Thread(target=work)
    thread.start()
    assert not entered.wait(0.2)
    path.unlink()
    os.close(descriptor)
    thread.join(60)
    assert entered.is_set() and path.exists()
