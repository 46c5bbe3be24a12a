"""Reports: from verdicts to scores, tables and an HTML page."""
