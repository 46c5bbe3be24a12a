"""Who gets a slot, and how the rows of a pass are divided between groups: shortly to a first token, nobody for ever."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.generation.shares import AHEAD, LEAD, MANY, QUANTUM, RECENT, SMALL, TYPING_SECONDS, Shares

PROMPTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 90)), max_size=8)


def shares(**rows):
    made = Shares()
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


def test_who_typed_a_moment_ago_or_types_comes_before_those_who_had_more():
    now = [0.0]
    made = Shares(clock=lambda: now[0])
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
    assert made.several and made.owns("b")
    made.note({"a": 1}, {"b"})
    assert made.owns("b")  # it has a request
    made.note({"a": 1})
    assert not made.several and not made.owns("b") and [*made._groups] == ["a"]


@dataclass(eq=False)
class Holder:
    """In place of a request."""

    group: str
    in_slot: int = 0


def used(made, group):
    return made._used(group, {})


def test_a_group_that_comes_later_begins_with_those_that_are_there():
    made = Shares()
    made.enter("a", ())
    made.note({"a": 500})
    made.enter("b", {"a"})
    assert used(made, "b") == 500
    made.note({"b": 40, "a": 100})
    made.enter("b", {"a", "b"})  # it is there: nothing changes
    assert used(made, "b") == 540
    made.enter("c", {"a", "b"}, 2)
    made.note({"c": 100})
    assert used(made, "c") == 590 and made._used("c", {"c": 20}) == 600
    made.enter("d", ())  # nobody is there: counting begins anew
    assert used(made, "d") == used(made, "a") == 0


def test_groups_without_end_are_forgotten():
    made = Shares()
    made.enter("a", (), 2)
    made.note({"a": 100})
    for number in range(3 * MANY):
        made.enter(f"{number}", {"a"})
    assert len(made._groups) <= MANY + 2 and used(made, "a") == 50


def test_a_quarter_of_the_slots_is_left_free_for_who_types():
    now = [0.0]
    made = Shares(clock=lambda: now[0])
    made.note({"a": 1, "b": 1, "c": 1})
    assert [made.left_free("", slots) for slots in (3, 4, 8, 16)] == [0, 1, 2, 3]
    assert made.left_free("ab", 16) == 1
    now[0] = TYPING_SECONDS - 0.1
    made.note({"c": 1})
    now[0] = TYPING_SECONDS
    assert made.left_free("", 16) == 1


@pytest.mark.parametrize(
    ("slots", "rows", "waiting", "expected"),
    [
        ("a a a a", {}, "b", (3, "b")),
        ("a a b a", {}, "b", (3, "b")),
        ("a a b b", {"a": 900}, "ab", None),
        ("a a a a", {"b": LEAD}, "b", (3, "b")),
        ("a a a a", {"b": LEAD + 1}, "b", None),
        ("a b", {"a": 100}, "c", None),
        ("a128 b200", {"a": QUANTUM, "b": 90}, "c", (0, "c")),
        ("a127 b200", {"a": QUANTUM, "b": 90}, "c", None),
        ("a128", {"a": QUANTUM}, "b", (0, "b")),
        ("a500", {"a": QUANTUM - 1}, "b", None),
        ("a500", {"a": 500}, "a", None),
        ("a500 a600 b", {"a": 500}, "", None),
        ("", {}, "a", None),
    ],
)
def test_who_gives_a_slot_to_whom(slots, rows, waiting, expected):
    made, holders = Shares(), [Holder(word[0], int(word[1:] or 0)) for word in slots.split()]
    made.note(rows)
    found = made.exchange(holders, waiting, {})
    assert found == (None if expected is None else (holders[expected[0]], expected[1]))
    if slots.count("a") < 2:
        assert made.exchange(holders, waiting, {}, slices=False) is None


def test_a_weight_is_a_share_of_the_slots():
    made, holders = Shares(), [Holder(each) for each in "aaaa"]
    made.enter("a", (), 3)
    made.enter("b", {"a"})
    assert made.exchange(holders, "b", {}) == (holders[3], "b")
    assert made.exchange([Holder(each) for each in "aaab"], "ab", {}) is None


@given(
    slots=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 300)), min_size=1, max_size=8),
    waiting=st.sets(st.sampled_from("abcd"), min_size=1),
    weights=st.tuples(*[st.integers(1, 4)] * 4),
    rows=st.tuples(*[st.integers(0, 1000)] * 4),
)
def test_exchanges_come_to_an_end(slots, waiting, weights, rows):
    made, holders = Shares(), [Holder(*each) for each in slots]
    made.enter("", ())
    for group, weight, count in zip("abcd", weights, rows, strict=True):
        made.enter(group, {""}, weight)
        made.note({group: count})
    queue = Counter(waiting)
    for _ in range(40):
        found = made.exchange(holders, [group for group in queue if queue[group]], {})
        if found is None:
            return
        holder, taker = found
        holders.remove(holder)
        holders.append(Holder(taker))
        queue[holder.group], queue[taker] = queue[holder.group] + 1, queue[taker] - 1
        made.note({taker: 100})
    raise AssertionError("slots change hands for ever")


def test_the_group_that_used_least_is_next_and_equal_ones_take_turns():
    def order(made, queue, in_slots=""):
        found, queue = "", Counter(queue)
        while +queue:
            found += made.next([*+queue], in_slots, {})
            queue[found[-1]] -= 1
        return found

    assert order(shares(a=5, b=3, c=3), "aaabbc", in_slots="abc") == "bcbaaa"
    assert order(Shares(), "aabb") == "abab"
    assert shares(a=50).next("ab", "", {"b": 60}) == "a"  # rows that are due count
    now = [0.0]
    made = Shares(clock=lambda: now[0])
    made.note({"a": 5})
    now[0] = TYPING_SECONDS
    made.note({"b": 5 + LEAD, "c": 6 + LEAD})
    assert order(made, "abc") == "bac"
