"""The TPU compiler as a measuring device, on machines without a TPU."""
