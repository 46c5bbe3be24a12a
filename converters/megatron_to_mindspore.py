"""Convert a nested PyTorch file, or mp_rank_XX files, to a MindSpore checkpoint."""

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    raise SystemExit(script("mindspore", __doc__))
