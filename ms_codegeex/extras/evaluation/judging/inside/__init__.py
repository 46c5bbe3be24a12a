"""Scripts that run in the sandbox, by the interpreter of the program that is judged; nothing here is imported."""
