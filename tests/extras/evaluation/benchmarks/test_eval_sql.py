"""Text to SQL: questions of both formats, and verdicts on right, wrong, broken and hostile queries."""

import json
import sqlite3
from contextlib import closing

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks.sql import Sql, end_of_query, prompt_of
from ms_codegeex.extras.evaluation.judging.inside.check_query import is_ordered, same_rows
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Sample, SampledAnswer

PASSED, WRONG, ERROR = Verdict.PASSED, Verdict.WRONG, Verdict.ERROR
SCHEMA = """CREATE TABLE author (id INTEGER PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE book (id INTEGER PRIMARY KEY, author_id INTEGER REFERENCES author(id), title TEXT, price REAL);
INSERT INTO author VALUES (1, 'Ada', 'UK'), (2, 'Emil', 'DE'), (3, 'Rosa', 'DE');
INSERT INTO book VALUES (1, 1, 'Notes', 10.0), (2, 1, 'Letters', 12.5), (3, 2, 'Essays', 10.0), (4, 3, 'Poems', NULL);
"""
QUESTIONS = [
    (
        "How many books has each author?",
        "SELECT name, count(*) FROM author JOIN book ON author.id = author_id GROUP BY name",
    ),
    ("Titles from the dearest to the cheapest?", "SELECT title FROM book WHERE price > 0 ORDER BY price DESC, title"),
    ("Which prices are there, as often as they occur?", "SELECT price FROM book WHERE price IS NOT NULL"),
]


@pytest.fixture
def own(tmp_path):
    rows = [{"question": question, "query": query, "schema": SCHEMA} for question, query in QUESTIONS]
    (tmp_path / "sql.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Sql(tmp_path)


def write_bird(directory):
    """BIRD's layout: dev.json and dev_databases."""
    place = directory / "dev_databases" / "library"
    place.mkdir(parents=True)
    with closing(sqlite3.connect(place / "library.sqlite")) as connection:
        connection.executescript(SCHEMA)
    common = {"db_id": "library", "evidence": "prices are in euros", "difficulty": "simple"}
    rows = [{**common, "question": question, "SQL": query} for question, query in QUESTIONS]
    (directory / "dev.json").write_text(json.dumps(rows))
    return directory


def judged(task, sandbox, query, number=0):
    problem = task.problems[number]
    found = task.judge(problem, Sample(problem.id, 0, "", query, "eos"), sandbox)
    return found.verdicts["strict"], found.verdicts["published"], found.stderr


@pytest.mark.strict_sandbox
def test_verdicts(own, sandbox):
    for number in range(3):
        assert judged(own, sandbox, own.reference(own.problems[number]).generation, number)[:2] == (PASSED, PASSED)
    grouped = " {} FROM book JOIN author ON author.id = author_id GROUP BY author.id"
    assert judged(own, sandbox, grouped.format("count(*), name"))[:2] == (PASSED, WRONG)  # columns in another order
    assert judged(own, sandbox, grouped.format("name, count(*) + 1"))[0] == WRONG
    assert judged(own, sandbox, " title FROM book WHERE price > 0 ORDER BY title", 1)[:2] == (WRONG, PASSED)
    assert judged(own, sandbox, " DISTINCT price FROM book WHERE price IS NOT NULL", 2)[:2] == (WRONG, PASSED)
    assert judged(own, sandbox, " price FROM book", 2)[:2] == (WRONG, WRONG)
    assert judged(own, sandbox, " nothing FROM nowhere")[0] == ERROR
    for begin in ("", "-- the prices\nWITH b AS (SELECT * FROM book) "):  # not continued
        assert judged(own, sandbox, f"{begin}{QUESTIONS[1][1]};", 1)[:2] == (PASSED, PASSED)
    assert "no such table" in judged(own, sandbox, " 1 FROM nowhere")[2]


@pytest.mark.strict_sandbox
def test_queries_only_read_and_end(own, sandbox):
    for query in ("1; DROP TABLE author", "load_extension('x')", "writefile('/t', 'y')", "* FROM pragma_database_list"):
        assert judged(own, sandbox, f" {query}")[0] in (ERROR, WRONG), query
    own.limits = type(own.limits)(wall=0.3)
    endless = " count(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n)"
    assert judged(own, sandbox, endless)[0] == Verdict.TIMEOUT


@pytest.mark.strict_sandbox
def test_databases_of_a_benchmark(tmp_path, sandbox):
    task = Sql(write_bird(tmp_path))
    problem = task.problems[0]
    assert problem.labels == {"difficulty": "simple", "database": "library"}
    assert judged(task, sandbox, task.reference(problem).generation)[:2] == (PASSED, PASSED)
    assert judged(task, sandbox, " name, 1 FROM author")[0] == WRONG
    assert "CREATE TABLE author" in prompt_of(problem.data) and "INSERT" not in prompt_of(problem.data)
    assert "-- prices are in euros\n-- How many books" in prompt_of(problem.data)


def test_a_sample_is_one_query(own):
    prompts = []

    def complete(prompt, **_):
        prompts.append(prompt)
        return SampledAnswer(" name FROM author; DROP TABLE author", "eos")

    sample = own.produce(own.problems[0], 0, 1, complete)
    assert sample.generation == " name FROM author" and prompts[0].endswith("each author?\nSELECT")
    assert own.tools()["SQLite"] == sqlite3.sqlite_version


@pytest.mark.parametrize(
    "expected, found, ordered, same",
    [
        ([], [], False, True),
        ([(1,)], [], False, False),
        ([(1, 2), (3, 4)], [(3, 4), (1, 2)], False, True),
        ([(1, 2), (3, 4)], [(3, 4), (1, 2)], True, False),
        ([(1, 2), (3, 4)], [(2, 1), (4, 3)], True, True),
        ([(1, 2), (3, 4)], [(2, 1), (3, 4)], False, False),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),
        ([(1, 1, 2)], [(1, 2, 1)], False, True),
        ([(None, "a")], [("a", None)], False, True),
        ([(1, 2)], [(1,)], False, False),
    ],
)
def test_rows_are_compared_as_multisets(expected, found, ordered, same):
    assert same_rows(expected, found, ordered) is same


def test_many_columns_of_equal_values_are_matched_quickly():
    rows = [(number % 2,) * 12 + (number,) for number in range(300)]
    assert same_rows(rows, [(row[-1], *row[:-1]) for row in rows], False)
    assert not same_rows(rows, [(row[-1] + 1, *row[:-1]) for row in rows], False)


@pytest.mark.parametrize(
    "text, query",
    [
        (" 1; DROP", " 1"),
        (" a FROM b WHERE c = 'x;y -- z' -- done", " a FROM b WHERE c = 'x;y -- z' "),
        (" 'it''s; here' FROM a\n\nnext", " 'it''s; here' FROM a"),
        (' "a;b" FROM c;', ' "a;b" FROM c'),
        (" 'open; string", " 'open; string"),
    ],
)
def test_where_a_query_ends(text, query):
    assert text[: end_of_query(text)] == query


def test_only_the_outermost_order_counts():
    assert is_ordered("SELECT a FROM b ORDER  BY a") and is_ordered("select a from b order by (a + 1)")
    assert not is_ordered("SELECT a FROM (SELECT a FROM b ORDER BY a LIMIT 3)") and not is_ordered("SELECT a FROM b")


def test_a_file_that_is_no_database(tmp_path):
    write_bird(tmp_path)
    (tmp_path / "dev_databases/library/library.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="not an SQLite database"):
        Sql(tmp_path)
