"""Convert a MindSpore checkpoint, rank files or a folder of .npy to a nested PyTorch file."""

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    raise SystemExit(script("megatron", __doc__))
