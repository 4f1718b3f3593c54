"""Whether an exported program computes what the network does, and if not, from which op on."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dino_nb.data.transforms import eval_transform, normalize
from dino_nb.inference.export_program import (
    OPSET,
    PLUGIN,
    PLUGIN_DOMAIN,
    PluginBody,
    Program,
    gather_form,
    trace_onnx,
    traceable,
)
from dino_nb.inference.sources import Source, read_all
from dino_nb.models.dino import DINO
from dino_nb.models.postprocess import postprocess
from dino_nb.prepare.scenes import draw_scene

_SIZES = ((320, 240), (240, 320), (400, 300), (512, 288), (333, 517))  # of the images that parity is checked on
_SCORE, _PIXELS, _RELATIVE = 1e-3, 1e-3, 1e-4  # largest differences: score; box, plus this share of the long side

Run = Callable[[Tensor, Tensor], Sequence[Any]]  # images and target_sizes to scores, labels, boxes


def disagreement(program: Program, run: Run, images: Source | None = None) -> str | None:
    """How ``run`` differs from ``program``, as the middle of a sentence; None if nowhere.

    ``images``: what ``predict`` takes; a few drawn scenes if None.
    """
    for name, image, size in _examples(program.model, images):
        with torch.inference_mode():
            (want,) = postprocess(program.model([image]), [size], program.model.config.num_select)
        if found := difference(want, run(image[None], torch.tensor([size])), max(size)):
            return f"on {name} {found}"
    return None


def difference(want: dict[str, Tensor], got: Sequence[Any], long_side: float) -> str | None:
    """How detections differ, as the middle of a sentence; None where they are the same within the tolerance.

    Each of the best 100 must have a counterpart: ranks of equal scores may be exchanged.
    """
    scores, labels, boxes = (torch.as_tensor(part)[0].float() for part in got)
    most = _PIXELS + _RELATIVE * long_side
    for score, label, box in zip(*(want[key][:100] for key in ("scores", "labels", "boxes"))):
        alike = (labels == label) & ((scores - score).abs() <= _SCORE)
        shift = (boxes[alike] - box).abs().amax(1).min().item() if alike.any() else float("inf")
        if not shift <= most:
            found = f"the nearest is off by {shift:.3g} pixels" if alike.any() else "there is none like it"
            return f"a detection of output {int(label)} with score {score:.3f} is missing: {found}"
    return None


def onnx_runner(path: Path, levels: int) -> Run:
    """Runs an ONNX file of a network with ``levels`` feature levels with onnxruntime."""
    import onnx

    session = _session(onnx.load(str(path)), levels)
    return lambda images, sizes: session.run(None, {"images": images.numpy(), "target_sizes": sizes.numpy()})


def program_runner(path: Path) -> Run:
    """Runs a ``torch.export`` file."""
    with path.open("rb") as file:
        return torch.export.load(file).module()


def first_difference(program: Program, path: Path, inputs: tuple[Tensor, Tensor]) -> str:
    """Names the first node of an ONNX file from which on its results differ from the network's, as a sentence.

    A node is right if the network computes the same value somewhere, or if a node that is right needs it.
    """
    import onnx

    with traceable(gather_form):
        rewritten = program(*inputs)
    with torch.inference_mode():
        if not all(map(_alike, program(*inputs), rewritten)):
            return " The attention op is written wrongly for exports."
    graph = onnx.load(str(path))
    nodes = [node for node in graph.graph.node if node.output and not node.op_type.startswith("Constant")]
    names = [node.output[0] for node in nodes]
    del graph.graph.output[:]
    graph.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, names))
    session = _session(graph, program.model.config.num_feature_levels)
    fed = {"images": inputs[0].numpy(), "target_sizes": inputs[1].numpy()}
    values = dict(zip(names, map(torch.from_numpy, session.run(names, fed))))
    with traceable(gather_form), _Strike(values) as strike:
        program(*inputs)
    # what is the same everywhere, and what sizes are computed with, says nothing of the images
    telling = {n for n, x in values.items() if x.is_floating_point() and x.numel() > 100 and x.min() < x.max()}
    right = telling - set(strike.left)
    for node in reversed(nodes):
        if node.op_type != "Shape" and not right.isdisjoint(node.output):
            right.update(node.input)
    for node in nodes:
        if node.output[0] in telling - right:
            return f" The first op with another result is {node.op_type} ({node.name})."
    return ""


class _Strike(TorchDispatchMode):
    """Leaves of the ``values`` (name -> tensor) those in ``left`` that the network does not compute."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.left = dict(values)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        outputs = function(*args, **(kwargs or {}))
        for value in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
            if isinstance(value, Tensor):
                for name in [n for n, x in self.left.items() if x.shape == value.shape and _alike(x, value)]:
                    del self.left[name]
        return outputs


def _alike(a: Tensor, b: Tensor) -> bool:
    a, b = a.double(), b.double()
    return torch.allclose(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().amax()) if b.numel() else 0, equal_nan=True)


def _session(graph: Any, levels: int) -> Any:
    """An onnxruntime session of an ONNX model; where it has TensorRT's plugin, with a function that computes that."""
    import onnxruntime

    if any(node.op_type == PLUGIN for node in graph.graph.node):
        graph.functions.append(_plugin_function(levels))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _plugin_function(levels: int) -> Any:
    import onnx

    file = io.BytesIO()
    shapes, starts = torch.ones(levels, 2, dtype=torch.int32), torch.arange(levels, dtype=torch.int32)
    inputs = {"value": torch.rand(1, levels, 2, 4), "shapes": shapes, "starts": starts}
    inputs |= {"places": torch.rand(1, 5, 2, levels, 3, 2), "weights": torch.rand(1, 5, 2, levels, 3)}
    free = {"value": (0, 1, 2, 3), "places": (0, 1, 2, 4), "weights": (0, 1, 2, 4)}
    trace_onnx(PluginBody(), inputs, ["out"], {n: {i: f"{n}{i}" for i in axes} for n, axes in free.items()}, file)
    body = onnx.load_model_from_string(file.getvalue()).graph
    constants = [onnx.helper.make_node("Constant", [], [x.name], value=x) for x in body.initializer]
    opset, attributes = onnx.helper.make_opsetid("", OPSET), ["plugin_version", "plugin_namespace"]
    return onnx.helper.make_function(
        PLUGIN_DOMAIN, PLUGIN, list(inputs), ["out"], [*constants, *body.node], [opset], attributes
    )


def _examples(model: DINO, images: Source | None) -> Iterator[tuple[str, Tensor, tuple[int, int]]]:
    """(name, input of the network, (height, width)) of each image that parity is checked on."""
    transform = eval_transform(*model.input_size)
    for name, image in _drawn() if images is None else ((one.name, one.image) for one in read_all(images)):
        yield name, normalize(transform(image)), (image.height, image.width)


def _drawn() -> Iterator[tuple[str, Image.Image]]:
    rng = np.random.default_rng(0)
    for number, size in enumerate(_SIZES):
        pixels, _ = draw_scene(rng, ("cells", "aerial")[number % 2], 0)
        yield f"a drawn scene of {size[0]} x {size[1]} pixels", Image.fromarray(pixels).convert("RGB").resize(size)
