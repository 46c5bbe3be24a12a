"""CodeGeeX2 (ChatGLM2 architecture)."""
