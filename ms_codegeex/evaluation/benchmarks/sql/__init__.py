"""Text to SQL: questions about databases, judged by what the queries return."""

from ms_codegeex.evaluation.benchmarks.sql.task import Sql

__all__ = ["Sql"]
