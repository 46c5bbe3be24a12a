"""Train, convert and run code language models on MindSpore: CodeGeeX, CodeGen, CodeGeeX2, Qwen2.

Importing this package does not import MindSpore; modules that need it import it themselves.
"""

__version__ = "0.1.0"
