"""Text to SQL: questions about databases, judged by the rows that the queries return."""

from ms_codegeex.evaluation.benchmarks.sql.task import Sql

__all__ = ["Sql"]
