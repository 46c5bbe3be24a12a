"""From a chat model's reply to a program that can be judged."""
