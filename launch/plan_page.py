"""The figures of `podgcm plan` as a page for people."""

from typing import Any

from launch.tpu.parts import PARTS, PHASES


def format_plan(figures: dict[str, Any]) -> str:
    """The page."""
    lines = [_heading(figures), *_training_mesh(figures), *_memory(figures)]
    if figures["fits"]:
        lines += _step(figures)
        if "curriculum" in figures:
            lines += _curriculum(figures["curriculum"])
        lines.append(
            "Modelled from the compiled program (launch/tpu/cost.py), not measured; "
            "the compiler's own optimal_seconds is "
            f"{figures['compiler']['optimal_seconds']}. "
            f"Compiled in {figures['compile_seconds']} s."
        )
    return "\n".join(lines)


def _heading(figures: dict[str, Any]) -> str:
    mesh = ", ".join(f"{axis}={n}" for axis, n in figures["mesh"].items())
    count = f"{figures['slices']} slices of " if figures["slices"] > 1 else ""
    return (
        f"{count}{figures['topology']}: {figures['devices']} devices, mesh {mesh}, "
        f"batch {figures['config']['train']['batch']}"
    )


def _training_mesh(figures: dict[str, Any]) -> list[str]:
    """What training must be told, if the mesh is not the config's own."""
    own = figures["config"]["mesh"]
    flags = [
        f"--config.mesh.{axis}={n}"
        for axis, n in figures["mesh"].items()
        if own[axis] not in (n, -1)
    ]
    return [f"to train on this mesh: {' '.join(flags)}"] if flags else []


def _memory(figures: dict[str, Any]) -> list[str]:
    memory = figures["memory"]
    of = f"{size(memory['peak'])} of {size(memory['available'])} a device"
    if not figures["fits"]:
        return [
            f"DOES NOT FIT: {of}; {size(memory['missing'])} are missing. Try a larger "
            "slice, more of level and lat in --mesh, or fewer config.data.frames"
        ]
    lines = [f"fits: {of}"]
    lines += [
        f"  {name:14}{size(memory[name]):>10}"
        for name in ("arguments", "outputs", "aliased", "temporaries", "program")
    ]
    if memory["host"]:
        lines.append(f"  on its host   {size(memory['host']):>10}")
    state = size(figures["state"])
    if figures["donated"]:
        return [*lines, f"  the training state, {state}, is overwritten in place"]
    return [
        *lines,
        f"NOT OVERWRITTEN IN PLACE: the training state is {state}, of which "
        f"{size(memory['aliased'])} are; this is a fault of the program, report it",
    ]


def _step(figures: dict[str, Any]) -> list[str]:
    times, pace = figures["modelled_seconds"], figures["pace"]
    lines = [
        "a step on each device",
        f"  matrix products {figures['flops'] / 1e9:14,.1f} GFLOP, with passes "
        f"{figures['mxu_flops'] / 1e9:,.1f}",
        f"  HBM traffic     {size(figures['bytes']):>14}",
        f"  modelled time   {1e3 * times['total']:14,.2f} ms (alone: products "
        f"{1e3 * times['compute']:,.2f}, memory {1e3 * times['memory']:,.2f}, "
        f"collectives {1e3 * times['collectives']:,.2f}, of which between slices "
        f"{1e3 * times['network']:,.2f})",
        f"  rollouts of {pace['rollout_days']:g} days: "
        f"{pace['seconds_per_simulated_day']:,.3f} s a simulated day, "
        f"{pace['samples_per_second']:,.2f} samples a second",
        *parts_table(figures["parts"]),
        f"  {'collectives':20}{'over':16}{'net':5}{'count':>8}{'received':>12}"
        f"{'modelled':>12}",
    ]
    lines += [
        f"  {c['kind']:20}{c['axes']:16}{c['network']:5}{c['count']:>8}"
        f"{size(c['bytes']):>12}{1e3 * c['seconds']:>9,.2f} ms"
        for c in figures["collectives"]
    ]
    if figures["unknown_custom_calls"]:
        lines.append(f"  custom calls not modelled: {figures['unknown_custom_calls']}")
    return lines


def parts_table(parts: dict[str, dict[str, float]]) -> list[str]:
    """Seconds of a step by part and phase, in lines."""
    lines = [f"  {'ms':16}" + "".join(f"{phase:>12}" for phase in PHASES)]
    for part in (*PARTS, "other"):
        if part in parts:
            times = (f"{1e3 * parts[part][phase]:12,.2f}" for phase in PHASES)
            lines.append(f"  {part:16}" + "".join(times))
    return lines


def _curriculum(figures: dict[str, Any]) -> list[str]:
    if "too_many_frames" in figures:
        return [
            f"the curriculum cannot be modelled: {figures['too_many_frames']} frames "
            "do not fit"
        ]
    lines = [
        "the curriculum, modelled",
        f"  {'rollout':>8}{'frames':>8}{'steps':>10}{'a step':>12}{'in all':>13}"
        f"{'peak memory':>14}",
    ]
    for row in figures["stages"]:
        hours = f"{row['hours']} h"
        lines.append(
            f"  {hours:>8}{row['frames']:>8}{row['steps']:>10,}"
            f"{row['seconds_per_step']:>10,.3f} s{row['seconds'] / 3600:>11,.1f} h"
            f"{size(row['peak']):>14}" + ("" if row["fits"] else "  DOES NOT FIT")
        )
    return [
        *lines,
        f"  in all {figures['seconds'] / 86400:,.2f} days, by two programs "
        f"({1e3 * figures['seconds_per_frame']:,.1f} ms a frame). Not in it: "
        "compilation (once a stage), waiting for data, evaluation, checkpoints, "
        "restarts",
    ]


def size(value: float) -> str:
    """Bytes in a unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"
