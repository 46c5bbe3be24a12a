"""Merge the mp_rank_XX files of all tensor-parallel ranks into one nested PyTorch file."""

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    raise SystemExit(script("megatron", __doc__))
