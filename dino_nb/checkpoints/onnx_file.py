"""An exported ``.onnx`` file as a model: what takes a ``DINO`` module for detections takes it too."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dino_nb.checkpoints.checkpoint import FORMAT, describe_as, read_config_of
from dino_nb.config import ModelConfig
from dino_nb.errors import UserError
from dino_nb.files import size_text
from dino_nb.models.query_selection import CANDIDATES


class OnnxModel(nn.Module):
    """Runs an ONNX file that ``dino_nb.export`` wrote, with onnxruntime.

    ``forward`` returns ``pred_logits`` and ``pred_boxes`` of the detections that the file selects (``num_select`` of
    them, one class each), so that post-processing finds exactly these.

    Attributes:
        config, class_names, category_ids, input_size, thresholds: of the exported model.
    """

    def __init__(self, path: str | Path, device: torch.device | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.session = _session(self.path, device)
        about = _description(self.session, self.path)
        self.config = read_config_of(about, self.path)
        self.class_names: list[str | None] | None = None
        self.category_ids: list[Any] | None = None
        self.input_size: tuple[int, int] = (800, 1333)
        self.thresholds: dict | None = None
        describe_as(self, about, self.path)

    def forward(self, images: list[Tensor] | Tensor) -> dict[str, Tensor]:
        """``(B, K, num_classes)`` logits and ``(B, K, 4)`` boxes of a list of ``(3, H, W)`` tensors, or one batch."""
        found = [self._detect(image) for image in images]
        return {key: torch.stack([one[key] for one in found]).to(images[0].device) for key in found[0]}

    def _detect(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        sizes = torch.tensor([[height, width]])
        inputs = {"images": image[None].float().cpu().numpy(), "target_sizes": sizes.numpy()}
        try:
            outputs = self.session.run(["scores", "labels", "boxes"], inputs)
        except Exception as error:  # onnxruntime has a class of its own for each kind of trouble
            side = _least_side(self.config)
            few = f"it needs about {side} x {side}, to have enough tokens for its queries"
            why = few if width * height < side**2 else _first_line(error)
            raise UserError(f"{self.path} cannot be run on {width} x {height} pixels: {why}.") from error
        scores, labels, boxes = (torch.from_numpy(output)[0] for output in outputs)
        logits = torch.full((len(scores), self.config.num_classes), -100.0)
        logits.scatter_(1, labels[:, None], torch.logit(scores.clamp(1e-30, 1 - 1e-7))[:, None])
        relative = boxes / torch.tensor([width, height, width, height])
        centres = torch.cat([relative[:, :2] + relative[:, 2:], 2 * (relative[:, 2:] - relative[:, :2])], 1) / 2
        return {"pred_logits": logits, "pred_boxes": centres}


def _least_side(config: ModelConfig) -> int:
    """Pixels of the smallest square image with a token for every query, and for those left out as near-duplicates."""
    tokens = config.num_queries * (CANDIDATES if config.proposal_nms else 1)
    stride = 4 * 2 ** config.return_interm_indices[0]
    strides = [stride * 2**level for level in range(config.num_feature_levels)]
    return next(side for side in range(32, 10_000, 32) if sum((-(-side // s)) ** 2 for s in strides) >= tokens)


def _session(path: Path, device: torch.device | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f'{path} needs onnxruntime: pip install "dino-nb[export]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if device is not None and device.type == "cuda" else []
    providers = [p for p in (*wanted, "CPUExecutionProvider") if p in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        size = size_text(path.stat().st_size)
        raise UserError(f"{path} ({size}) is not an ONNX model that can be run: {_first_line(error)}") from error


def _description(session: Any, path: Path) -> dict[str, Any]:
    try:
        about = json.loads(session.get_modelmeta().custom_metadata_map.get(FORMAT, ""))
        assert isinstance(about, dict)
    except (ValueError, RecursionError, AssertionError):
        about = None
    names = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
    if about is None or names != (["images", "target_sizes"], ["scores", "labels", "boxes"]):
        raise UserError(f"{path} is an ONNX file of another model: only those that `dino-nb export` wrote are read.")
    return about


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
