"""Split a nested PyTorch file into one file per tensor-parallel rank (default: 2)."""

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    raise SystemExit(script("megatron", __doc__, ranks=2))
