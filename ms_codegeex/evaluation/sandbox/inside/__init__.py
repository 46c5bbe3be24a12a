"""Code that runs in the sandbox before and next to the programs. Never imported here: `interpreter.py` sends it."""
