"""GGUF, the file that llama.cpp, Ollama and LM Studio run: written from any model we read, and read back."""
