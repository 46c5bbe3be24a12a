import pytest

from ms_codegeex.evaluation.threads import in_parallel


def test_an_error_in_a_thread_is_raised_and_nothing_new_is_started():
    started = []

    def fail(number):
        started.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(in_parallel(range(1000), fail, 2, "", False))
    assert len(started) < 20
