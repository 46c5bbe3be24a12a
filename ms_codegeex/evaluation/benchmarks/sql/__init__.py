"""Text to SQL: questions about databases, judged by the rows that the queries return."""
