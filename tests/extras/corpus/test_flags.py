import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.extras.corpus.phases import Flags


def raised(size, numbers):
    """Flags with those of `numbers` raised."""
    flags = Flags(size)
    flags.set(np.array(numbers, np.int64))
    return flags


@st.composite
def several(draw):
    """A size and two lists of numbers below it, with repetitions."""
    size = draw(st.integers(0, 70))
    numbers = st.lists(st.integers(0, size - 1), max_size=60) if size else st.just([])
    return size, draw(numbers), draw(numbers)


@given(several(), st.data())
def test_flags_against_sets(given_flags, data):
    size, first, second = given_flags
    flags, other = raised(size, first), raised(size, second)
    everything, one, two = set(range(size)), set(first), set(second)
    for made, expected in (
        (flags, one),
        (flags & other, one & two),
        (flags | other, one | two),
        (~flags, everything - one),
        (~flags & ~other, everything - one - two),
    ):
        assert made.first(size) == sorted(expected) and made.count() == len(expected)
        assert made.any() == bool(expected)
        assert np.flatnonzero(made.at(np.arange(size))).tolist() == sorted(expected)
        start = data.draw(st.integers(0, size))
        end = data.draw(st.integers(start, size))
        assert made.between(start, end).tolist() == [number in expected for number in range(start, end)]
    assert (~flags).first(2) == sorted(everything - one)[:2]


def test_a_flag_takes_a_bit():
    assert Flags(1_000_000).bits.nbytes == 125_000
