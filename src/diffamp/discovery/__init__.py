"""What was planted in a model: the loop, what others do, and what each recovered."""

LOOP = "diffamp"
"""The loop's name among the methods."""
DEVELOPED_ON = ("ban", "number")
"""Universes on which it was developed: the others are its test."""
