"""Job files for clusters that schedule runs."""
