"""This machine: which it is, how it is set up, and what it can do."""
