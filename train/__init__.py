"""Training and forecasting: mesh, data loading, losses, loop, checkpoints."""
