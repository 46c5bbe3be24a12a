"""From source files, archives and tables to a dataset directory."""
