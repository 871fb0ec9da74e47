"""Weights that others have published, read and translated."""
