"""The rows of a pass are divided between groups: shortly to a first token, nobody for ever."""

from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.generation.row_shares import AHEAD, OWNED, RECENT, SMALL, TYPING_SECONDS, RowShares

PROMPTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 90)), max_size=8)


def shares(**rows):
    made = RowShares()
    made.note(rows)
    return made


def test_one_group_has_all_rows_in_its_order():
    assert shares(a=5).divided([("a", 30), ("a", 40)], 50) == [30, 20]
    assert shares().divided([("", 5)], 50, [""]) == [5]


def test_who_had_least_comes_first_and_the_pass_is_short():
    flood = [("a", 20), ("a", 60), ("b", 10), ("a", 60)]
    assert shares(a=2 * AHEAD, b=5).divided(flood, 64) == [10, 0, 10, 0]
    assert shares(a=2 * AHEAD, b=5).divided([("a", 60), ("b", 2)], 64) == [14, 2]
    assert shares(a=2 * AHEAD, b=5).divided([("a", 60), ("b", 40)], 64) == [24, 40]
    assert shares(a=5, b=2 * AHEAD).divided([("a", 60), ("b", 2)], 64) == [60, 2]
    made = shares(a=5)
    made.enter("a", ())
    made.enter("b", {"a"})
    assert made.divided([("a", 60), ("a", 60), ("b", 30)], 64) == [30, 0, 30]  # who came last


def test_a_first_token_that_comes_anyway_makes_the_pass_short_too():
    assert shares(a=2 * AHEAD, b=5).divided([("a", 60)], 60, ["b"]) == [SMALL]
    assert shares(b=2 * AHEAD, a=5).divided([("a", 60)], 60, ["b"]) == [60]


def test_a_group_owns_its_slot_for_some_passes_after_its_last_row():
    made = shares(a=5)
    assert made.owns("a") and not made.owns("b")
    for _ in range(OWNED - 1):
        made.note({"b": 1})
    assert made.owns("a")
    made.note({"b": 1})
    assert not made.owns("a") and made.owns("b")


def test_who_typed_a_moment_ago_or_types_comes_before_those_who_had_more():
    now = [0.0]
    made = RowShares(clock=lambda: now[0])
    made.enter("a", ())
    made.note({"a": 2 * AHEAD})
    made.enter("b", {"a"})
    assert made.typist({"a", "b"}) is None  # nobody knows yet how much it needs
    made.note({"a": 5, "b": 2 * SMALL - 1})
    assert [made.typist(present) for present in ({"a"}, (), {"a", "b"}, {"b"})] == ["b"] * 4
    now[0] = TYPING_SECONDS - 0.1
    assert made.typist({"a"}) == "b"
    now[0] = TYPING_SECONDS  # however few passes there were
    assert made.typist({"a"}) is None
    made.enter("b", {"a"})
    made.note({"b": 2 * SMALL})  # more than a keystroke
    assert made.typist({"a"}) is None
    made.enter("b", {"a"})
    made.note({"b": 1})
    assert made.typist({"a"}) == "b"
    made.enter("c", {"a"})  # comes before it
    assert made.typist({"a", "c"}) is None


def test_long_prompts_of_two_groups_take_turns():
    made, left = shares(a=1, b=1), {"a": 2000, "b": 2000}
    for _ in range(60):
        prompts = [(group, rest) for group, rest in left.items() if rest]
        counts = made.divided(prompts, 32)
        assert sum(counts) == 32
        for (group, _), count in zip(prompts, counts, strict=True):
            left[group] -= count
        made.note(dict(zip(left, counts, strict=True)))
        assert abs(left["a"] - left["b"]) <= AHEAD + 32


@given(
    prompts=PROMPTS,
    room=st.integers(0, 100),
    rows=st.tuples(*[st.integers(0, 600)] * 3),
    begun=st.sets(st.sampled_from("abc")),
)
def test_somebody_always_goes_on(prompts, room, rows, begun):
    counts = shares(**dict(zip("abc", rows, strict=True))).divided(prompts, room, begun)
    assert all(0 <= count <= wanted for count, (_, wanted) in zip(counts, prompts, strict=True))
    assert min(1, room, len(prompts)) <= sum(counts) <= room
    if len({group for group, _ in prompts} | begun) == 1:
        assert sum(counts) == min(room, sum(wanted for _, wanted in prompts))


def test_a_group_that_was_away_is_owed_nothing_and_is_forgotten():
    made = shares(a=1000)
    made.enter("b", {"a"})
    made.note({"a": 1, "b": 1})
    assert made.several and {name: one.rows for name, one in made._groups.items()} == {"a": 1001, "b": 1001}
    for _ in range(RECENT):
        made.note({"a": 1})
    assert made.several
    made.note({"a": 1})
    assert not made.several and [*made._groups] == ["a"]
