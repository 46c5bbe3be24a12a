"""Convert a Hugging Face model directory to a MindSpore checkpoint with the original names."""

from ms_codegeex.commands.convert import script

if __name__ == "__main__":
    raise SystemExit(script("mindspore", __doc__))
