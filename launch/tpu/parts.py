"""Parts of a training step, by the names that JAX gives operations."""

import re

PARTS = ("encode", "networks", "dycore", "decode", "loss", "optimizer")
"""Scopes of the model and the training step, the innermost of which counts."""
PHASES = ("forward", "recomputed", "backward")


def part_of(name: str) -> tuple[str, str]:
    """Part and phase of what has this name in JAX's program, `op_name`."""
    scopes = re.findall(rf"\b({'|'.join(PARTS)})\b", name)
    part = scopes[-1] if scopes else "other"
    if "rematted_computation" in name:
        return part, "recomputed"
    return part, "backward" if "transpose(" in name else "forward"
