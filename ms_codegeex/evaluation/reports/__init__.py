"""From verdicts to tables and pages."""
