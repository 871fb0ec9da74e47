"""Arrays of a published checkpoint in the places of our parameters.

Theirs are features in the order of their names, grids as [longitude, latitude], and
modules by the names that Haiku gave them; every array is used, and none is left.
"""

from collections.abc import Sequence

import jax
import numpy as np

from launch.published.statistics import their_name
from model.networks import waves
from model.scales import AIR, input_sizes, output_sizes
from model.spec import LAYER_FIELDS, TRACERS, ModelSpec
from model.sphere.grids import GaussianGrid, fold
from pipeline.errors import UserError
from train.step import Params

Feature = tuple[str, int]
"""Name of a feature, of ours, and which number of it."""

_ROOT = "stochastic_modular_step_model"
_STEP = f"{_ROOT}/stochastic_physics_parameterization_step"
_PHYSICS = f"{_STEP}/div_curl_neural_parameterization"
_DECODER = f"{_ROOT}/dimensional_learned_primitive_to_weatherbench_decoder"
_ENCODER = f"{_ROOT}/dimensional_learned_weatherbench_to_primitive_encoder"
_WITH_MEMORY = (
    f"{_ROOT}/dimensional_learned_weatherbench_to_primitive_with_memory_encoder"
)
_POSITIONAL = "combined_features/learned_positional_features"
_EMBEDDING = f"{_PHYSICS}/combined_features/embedding"


class Arrays:
    """A checkpoint's arrays, each of which is taken once."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = {
            name.replace("/~/", "/").replace("~/", ""): x for name, x in arrays.items()
        }

    def take(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """The array of that name.

        Raises:
          UserError: if there is none, or it has another shape.
        """
        if name not in self._arrays:
            raise UserError(f"the checkpoint lacks the array {name}")
        x = np.asarray(self._arrays.pop(name), np.float32)
        if x.shape != tuple(shape):
            raise UserError(
                f"the checkpoint's array {name} has shape {list(x.shape)}, and not "
                f"{list(shape)} as its configuration says"
            )
        return x

    def names(self) -> list[str]:
        """Of those that were not taken."""
        return sorted(self._arrays)


def published_params(
    arrays: dict[str, np.ndarray], spec: ModelSpec, noise_names: Sequence[str] = ()
) -> Params:
    """Parameters of `Networks(spec)` from a checkpoint's arrays.

    Args:
      arrays: by their names.
      spec: of the model.
      noise_names: of the random fields, if each has a module of its own.

    Raises:
      UserError: if one is missing, is of another shape, or is left.
    """
    source = Arrays(arrays)
    inputs, outputs = _inputs(spec, noise_names), _outputs(spec)
    modules = _modules(spec)
    params: Params = {"positional": {}, "orography": {}, "noise": {}}
    for tower, module in modules.items():
        kind = tower.replace("memory_", "")
        params[tower] = _tower(
            source,
            f"{module}/nodal_mapping/epd_tower",
            "",
            (*inputs[kind], *outputs[kind]),
            (spec.networks.width, spec.networks.blocks, spec.networks.layers, 0),
        )
        if spec.networks.positional:
            latitudes, longitudes = spec.grid.shape
            shape = (spec.networks.positional, longitudes, latitudes)
            name = f"{module}/{_POSITIONAL}/learned_positional_features"
            params["positional"][tower] = fold(source.take(name, shape).swapaxes(1, 2))
    for place, module in _orographies(spec, modules).items():
        grid = spec.dycore_grid if place == "core" else spec.grid
        params["orography"][place] = {
            "coefficients": _orography(source, f"{module}/learned_orography", grid)
        }
    if spec.networks.convolution:
        params["convolution"] = _convolution(source, spec)
    if spec.networks.surface != "raw":
        params["surface"] = _surface(source, spec)
    if spec.networks.noise:
        for tower, module in (("encoder", modules["encoder"]), ("physics", _STEP)):
            count = len(spec.networks.noise)
            params["noise"][tower] = _noise(source, module, count, noise_names)
    if left := source.names():
        raise UserError(
            f"the checkpoint has {len(left)} arrays that are not known: "
            f"{', '.join(left)}"
        )
    return params


def _modules(spec: ModelSpec) -> dict[str, str]:
    """Their modules by our towers."""
    modules = {"physics": _PHYSICS, "decoder": _DECODER}
    if not spec.networks.memory:
        return modules | {"encoder": _ENCODER}
    inner = f"{_WITH_MEMORY}/learned_weatherbench_to_primitive_encoder"
    return modules | {"memory_encoder": inner, "encoder": f"{inner}_1"}


def _orographies(spec: ModelSpec, modules: dict[str, str]) -> dict[str, str]:
    """Modules that own a correction to the orography, by place."""
    places = {}
    learned = spec.networks.learned_orography
    if "core" in learned:
        places["core"] = (
            f"{_STEP}/custom_coords_corrector/dycore_with_physics_corrector"
        )
    if "decoder" in learned:
        places["decoder"] = modules["decoder"]
    if "encoder" in learned:
        places |= {name: x for name, x in modules.items() if name.endswith("encoder")}
    return places


# ---- order of features


def _numbers(sizes: dict[str, int]) -> list[Feature]:
    return [(name, i) for name in sorted(sizes) for i in range(sizes[name])]


def _inputs(
    spec: ModelSpec, noise_names: Sequence[str]
) -> dict[str, tuple[list[Feature], list[Feature]]]:
    """Features of every tower in our order and in theirs."""
    n, layers = spec.networks, spec.sigma.layers
    places = {"learned_positional_features": n.positional}
    surface = {"surface_embedding": n.surface_features}
    channels = {f"CNN1D_{i:04}": layers for i in range(n.convolution[-1])}
    noise = {name: 1 for name in noise_names} or {"randomness": len(n.noise)}
    learned = {
        "encoder": [places, noise],
        "physics": [channels, surface, places, noise],
        "decoder": [places],
    }
    orders = {}
    for tower, more in learned.items():
        sizes = input_sizes(spec)[tower]
        by_their_name = {
            their_name(name, tower == "encoder"): [(name, i) for i in range(size)]
            for name, size in sizes.items()
        }
        ours = _numbers(sizes)
        for fields in more:
            for name, size in fields.items():
                features = [(name, i) for i in range(size)]
                ours += features
                # An encoder's random fields come after its data.
                last = "~" if tower == "encoder" and fields is noise else ""
                by_their_name[last + name] = features
        theirs = [x for name in sorted(by_their_name) for x in by_their_name[name]]
        orders[tower] = ours, theirs
    return orders


def _outputs(spec: ModelSpec) -> dict[str, tuple[list[Feature], list[Feature]]]:
    """The same of what towers put out.

    The encoder's are in the order of a state's fields, the others' by name, and all
    have the tracers as one field of that name, in which they go by theirs.
    """
    orders = {}
    for tower, sizes in output_sizes(spec).items():
        names = {name: their_name(name, of_data=tower == "decoder") for name in sizes}
        fields = {name: (_field(names[name], tower), names[name]) for name in sizes}
        theirs = sorted(sizes, key=fields.get)
        orders[tower] = (
            _numbers(sizes),
            [(name, i) for name in theirs for i in range(sizes[name])],
        )
    return orders


_STATE = (
    "vorticity",
    "divergence",
    "temperature_variation",
    "log_surface_pressure",
    "tracers",
)


def _field(name: str, tower: str) -> str | int:
    """What a field of a tower's outputs is sorted by."""
    field = "tracers" if name in TRACERS else name
    return _STATE.index(field) if tower == "encoder" else field


def _places_of(wanted: list, given: list) -> np.ndarray:
    """Where in `given` each of `wanted` is."""
    place = {feature: i for i, feature in enumerate(given)}
    assert len(place) == len(wanted) == len(given)
    return np.array([place[feature] for feature in wanted])


# ---- modules


def _mlp(
    source: Arrays, module: str, sizes: Sequence[int], bias: bool = True
) -> list[dict[str, np.ndarray]]:
    """Linear layers, each with its kernel [in, out] and bias [out]."""
    layers = []
    for i, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layer = {"kernel": source.take(f"{module}/linear_{i}/w", (before, after))}
        if bias:
            layer["bias"] = source.take(f"{module}/linear_{i}/b", (after,))
        layers.append(layer)
    return layers


def _tower(
    source: Arrays,
    module: str,
    prefix: str,
    features: tuple[list, list, list, list],
    shape: tuple[int, int, int, int],
) -> Params:
    """A tower.

    Args:
      source: the arrays.
      module: of theirs.
      prefix: of the names of its parts.
      features: inputs in our order and in theirs, and outputs.
      shape: width, blocks, hidden layers of a block, and of the decoding.
    """
    our_inputs, their_inputs, our_outputs, their_outputs = features
    width, blocks, layers, decoder_layers = shape

    def mlp(part: str, sizes: Sequence[int], bias: bool = True) -> list[dict]:
        name = f"{module}/{prefix}{part}/mlp_uniform"
        return _mlp(source, name, sizes, bias)

    (encode,) = mlp("encode_tower", (len(their_inputs), width))
    encode["kernel"] = encode["kernel"][_places_of(our_inputs, their_inputs)]
    several = [
        mlp("process_tower" + (f"_{b}" if b else ""), [width] * (layers + 2))
        for b in range(blocks)
    ]
    sizes = [*[width] * (decoder_layers + 1), len(their_outputs)]
    decode = mlp("decode_tower", sizes, bias=False)
    columns = _places_of(our_outputs, their_outputs)
    decode[-1]["kernel"] = decode[-1]["kernel"][:, columns]
    return {
        "encode": encode,
        "blocks": {"linears": _numbered(jax.tree.map(_stack, *several))},
        "decode": {"linears": _numbered(decode)},
    }


def _stack(*arrays: np.ndarray) -> np.ndarray:
    return np.stack(arrays)


def _numbered(layers: list) -> dict[int, Params]:
    return dict(enumerate(layers))


def _orography(source: Arrays, module: str, grid: GaussianGrid) -> np.ndarray:
    """Coefficients in our order; theirs go by m, its cosines before its sines."""
    ours = [tuple(int(i) for i in wave) for wave in waves(grid)]
    theirs = sorted(ours, key=lambda wave: (wave[1], wave[0], wave[2]))
    values = source.take(f"{module}/orography", (len(theirs),))
    return values[_places_of(ours, theirs)]


def _convolution(source: Arrays, spec: ModelSpec) -> Params:
    names = [*LAYER_FIELDS, "pressure"]
    theirs = sorted(names, key=lambda name: their_name(name, of_data=False))
    channels = _places_of(sorted(names), theirs)
    module = (
        f"{_EMBEDDING}_volume_features/modal_to_nodal_embedding/nodal_volume_mapping/"
        "vertical_conv_tower/conv_level"
    )
    sizes = [len(names), *spec.networks.convolution]
    layers = {}
    for i, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
        name = f"{module}_{i}" if i else module
        window = spec.networks.convolution_window
        kernel = source.take(f"{name}/w", (window, before, after))
        layers[i] = {
            "kernel": kernel[:, channels] if i == 0 else kernel,
            "bias": source.take(f"{name}/b", (after, 1))[:, 0],
        }
    return {"layers": layers}


def _surface(source: Arrays, spec: ModelSpec) -> Params:
    module = f"{_EMBEDDING}_surface_features/nodal_land_sea_ice_embedding"
    size = spec.networks.surface_features
    outputs = list(range(size))
    air = sorted(AIR)
    # Ours has the ice cover behind the air.
    inputs = {"land": air, "sea": [""], "ice": [*air, "sea_ice_cover"]}
    params = {}
    towers = iter(["", "_1", "_2"])
    for kind, ours in inputs.items():
        if kind != "sea" and spec.networks.surface == "constant":
            name = {"land": "land", "ice": "sea_ice"}[kind]
            value = source.take(f"{module}/{name}_params", (size, 1, 1))
            params[kind] = {"value": value[:, 0, 0]}
            continue
        theirs = sorted(ours, key=lambda name: their_name(name, of_data=False))
        params[kind] = _tower(
            source,
            f"{module}/modal_to_nodal_embedding{next(towers)}/nodal_mapping/epd_tower",
            "surface_model_",
            (ours, theirs, outputs, outputs),
            (size, 1, 3, 1),
        )
    return params


def _noise(source: Arrays, module: str, count: int, names: Sequence[str]) -> Params:
    """Raw lengths and times, of one module for all fields or of one for each."""
    if not names:
        name = f"{module}/batch_gaussian_random_field_module"
        return {
            f"{kind}s": source.take(f"{name}/correlation_{kind}s_raw", (count,))
            for kind in ("length", "time")
        }
    several = f"{module}/dict_of_gaussian_random_field_modules"
    return {
        f"{kind}s": np.stack(
            [source.take(f"{several}/{x}/correlation_{kind}_raw", ()) for x in names]
        )
        for kind in ("length", "time")
    }
