"""Decides; touches nothing: no I/O, no clock, no randomness, no environment."""
