"""Runs two queries on a database and ends with an AssertionError if their rows differ. Runs in the sandbox.

    check_query.py DATABASE multiset|set

DATABASE is a file, or `-` for the one that schema.sql creates. The queries are in expected.sql and query.sql.
They may only read. Standard library only, compatible with Python 3.7.
"""
# ruff: noqa: B905 (zip has no `strict` before Python 3.10)

import re
import sqlite3
import sys
from collections import Counter

MAXIMUM = 1_000_000  # rows of an answer
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def connect(database):
    """A connection that only reads."""
    if database == "-":
        connection = sqlite3.connect(":memory:")
        with open("schema.sql", encoding="utf-8") as stream:
            connection.executescript(stream.read())
    else:
        connection = sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY)
    return connection


def rows_of(database, path):
    """The rows that a query returns, with floats rounded to ten digits."""
    with open(path, encoding="utf-8", errors="surrogatepass") as stream:
        rows = connect(database).execute(stream.read()).fetchmany(MAXIMUM + 1)
    if len(rows) > MAXIMUM:
        raise MemoryError(f"more than {MAXIMUM} rows")
    return [tuple(float(f"{cell:.10g}") if isinstance(cell, float) else cell for cell in row) for row in rows]


def is_ordered(query):
    last = [match.end() for match in re.finditer(r"\border\s+by\b", query, re.IGNORECASE)]
    return bool(last) and query[last[-1] :].count(")") <= query[last[-1] :].count("(")


def same_rows(expected, returned, ordered):
    """Whether the rows are equal with multiplicity, and in the same order if it matters, for some order of columns."""
    if len(expected) != len(returned) or (expected and len(expected[0]) != len(returned[0])):
        return False
    if not expected:
        return True
    gather = list if ordered else Counter
    wanted, given = list(zip(*expected)), list(zip(*returned))  # columns

    def contents(column):
        return frozenset(Counter(column).items())

    def search(order):
        """Whether these columns, and others after them, are those expected."""
        size = len(order)
        if gather(zip(*wanted[:size])) != gather(zip(*(given[index] for index in order))):
            return False
        if size == len(wanted):
            return True
        others = {given[index]: index for index in range(len(given)) if index not in order}  # equal columns are one
        alike = (index for column, index in others.items() if contents(column) == contents(wanted[size]))
        return any(search((*order, index)) for index in alike)

    return Counter(map(contents, wanted)) == Counter(map(contents, given)) and search(())


def main():
    """Compare."""
    database, rule = sys.argv[1:3]
    expected, returned = rows_of(database, "expected.sql"), rows_of(database, "query.sql")
    with open("expected.sql", encoding="utf-8") as stream:
        ordered = is_ordered(stream.read())
    equal = same_rows(expected, returned, ordered) if rule == "multiset" else set(expected) == set(returned)
    assert equal, f"{len(returned)} rows, {len(expected)} expected: {returned[:3]} instead of {expected[:3]}"


if __name__ == "__main__":
    main()
