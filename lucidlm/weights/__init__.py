"""Weights in from the world and out to it."""
