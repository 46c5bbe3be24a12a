"""Convert a nested PyTorch file, or mp_rank_XX files, to a Hugging Face model directory."""

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    raise SystemExit(script("hf", __doc__))
