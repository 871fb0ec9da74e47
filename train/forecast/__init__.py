"""Forecasts from a run: many initial times and members at once, on a mesh."""
