"""Train, convert and run code language models on MindSpore: CodeGeeX, CodeGen, CodeGeeX2, Qwen2.

Importing this package imports no MindSpore; the modules that need the engine import it themselves.
"""

__version__ = "0.1.0"
