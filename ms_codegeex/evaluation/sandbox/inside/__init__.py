"""What runs in the sandbox before and beside the programs. Never imported here: `interpreter.py` sends it there."""
