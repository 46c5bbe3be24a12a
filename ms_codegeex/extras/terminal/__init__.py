"""The verbs `complete` and `chat`: a model in the terminal, on a server or in this process."""
