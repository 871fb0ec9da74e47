"""Verification: forecasts against the truth, with WeatherBench's conventions."""
