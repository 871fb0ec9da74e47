"""The differentiable general circulation model. It reads no files."""
