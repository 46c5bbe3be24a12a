"""Convert a run or checkpoint directory of any family to a nested PyTorch file."""

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    raise SystemExit(script("megatron", __doc__))
