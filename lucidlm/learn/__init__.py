"""Twelve short steps from a text to a loss that one can trust: predict, then see."""
