"""The replayed memory pool against placements worked out by hand."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.hardware import GIB
from ms_codegeex.extras.cluster.rehearsal.timeline.pool import PoolUse, aligned, replay

KIB = 1024


@dataclass(frozen=True)
class Piece:
    bytes: int
    start: float
    end: float
    stream: str = "compute"
    bucket: int | None = None


def touched(*pieces, parameters=()):
    return replay(pieces, parameters).touched


def test_sizes_are_multiples_of_512_bytes():
    assert [aligned(size) for size in (0, 1, 512, 513)] == [512, 512, 512, 1024]
    assert touched(Piece(1, 0, 2), Piece(513, 0, 2)) == 1536


def test_what_has_ended_makes_room_for_what_starts_then():
    assert touched(Piece(4 * KIB, 0, 1), Piece(4 * KIB, 1, 2)) == 4 * KIB
    assert touched(Piece(4 * KIB, 0, 1.5), Piece(4 * KIB, 1, 2)) == 8 * KIB


def test_a_hole_that_is_too_small_stays():
    """[2][2][2]: the first and the third end, 3 fit into neither hole and go behind, 4 KiB at most exist at a time
    besides the second."""
    first = [Piece(2 * KIB, 0, 1), Piece(2 * KIB, 0, 9), Piece(2 * KIB, 0, 1), Piece(2 * KIB, 0, 9)]
    assert touched(*first, Piece(3 * KIB, 2, 3)) == 11 * KIB
    assert touched(*first, Piece(1 * KIB, 2, 3), Piece(1 * KIB, 2, 3)) == 8 * KIB


def test_neighbours_that_end_are_one_hole():
    for first, second in ((1, 2), (2, 1)):  # the one before or the one behind is idle already
        pieces = [Piece(2 * KIB, 0, first), Piece(2 * KIB, 0, second), Piece(2 * KIB, 0, 9)]
        assert touched(*pieces, Piece(4 * KIB, 3, 4)) == 6 * KIB


def test_the_smallest_hole_that_suffices_is_taken():
    """Holes of 4 and of 2 KiB: 2 KiB take the second, so that 4 KiB fit into the first."""
    pieces = [Piece(4 * KIB, 0, 1), Piece(KIB, 0, 9), Piece(2 * KIB, 0, 1), Piece(KIB, 0, 9)]
    assert touched(*pieces, Piece(2 * KIB, 2, 9), Piece(4 * KIB, 3, 9)) == 8 * KIB


def test_streams_and_parameters_share_nothing():
    assert touched(Piece(KIB, 0, 1), Piece(KIB, 2, 3, "tensor")) == 2 * KIB
    assert replay([Piece(KIB, 0, 1)], [KIB]) == PoolUse(GIB + GIB // 8, 2 * KIB)


def test_a_bucket_arrives_as_one_piece():
    """2 + 2 KiB do not fit into two holes of 2 KiB; later the halves become idle one by one."""
    holes = [Piece(2 * KIB, 0, 1), Piece(KIB, 0, 9), Piece(2 * KIB, 0, 1), Piece(KIB, 0, 9)]
    bucket = [Piece(2 * KIB, 2, 3, bucket=7), Piece(2 * KIB, 2, 9, bucket=7)]
    assert touched(*holes, *bucket) == 10 * KIB
    assert touched(*holes, *bucket, *[Piece(2 * KIB, 4, 5)] * 3) == 10 * KIB


def test_blocks_are_large_and_do_not_join():
    block = GIB // 8
    assert replay([Piece(3 * block, 0, 1)], []) == PoolUse(4 * block, 3 * block)
    two = [Piece(block // 2 + KIB, 0, 1), Piece(block // 2 + KIB, 0, 1)]  # in two blocks; together they hold no third
    assert replay([*two, Piece(block + KIB, 2, 3)], []).blocks == 4 * block
    assert replay([Piece(KIB, 1, 1)], []) == PoolUse(0, 0)
    assert replay([], [GIB + KIB]) == PoolUse(2 * GIB, GIB + KIB)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(1, 9)), max_size=30))
def test_it_touches_what_exists_at_once_and_no_more_than_everything(values):
    pieces = [Piece(size, start, start + length) for size, start, length in values]
    peak = max((sum(aligned(x.bytes) for x in pieces if x.start <= time < x.end) for time in range(30)), default=0)
    assert peak <= touched(*pieces) <= sum(aligned(x.bytes) for x in pieces)
    assert touched(*pieces, parameters=[700]) == touched(*pieces) + 1024
