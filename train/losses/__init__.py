"""Losses of rollouts: terms made of an error scale, a view, a score and a weight."""
