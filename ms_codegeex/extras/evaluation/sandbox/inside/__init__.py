"""Code that runs in the sandbox before and next to the programs. Never imported here: `supervisors.py` sends it."""
