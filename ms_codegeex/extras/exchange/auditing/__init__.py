"""Reports about files: what their pickles would import, and how two checkpoints differ."""
