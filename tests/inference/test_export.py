"""Exports to other runtimes: the same detections, at other sizes than the one they were traced at."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import dino_nb
from dino_nb.cli import main
from dino_nb.errors import UserError
from dino_nb.inference import export as module
from dino_nb.inference.export_parity import difference
from dino_nb.inference.export_program import OPSET, PLUGIN, PLUGIN_DOMAIN, PluginBody, Program, gather_form
from dino_nb.ops import reference
from dino_nb.presets import PRESETS

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra 'test' has it)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra 'test' has it)")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """dino-tiny as ONNX, checked as every export is."""
    return dino_nb.export("dino-tiny", tmp_path_factory.mktemp("export") / "tiny.onnx")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((200, 150)).save(path)
    return path


@pytest.mark.parametrize("last", [2, 4])
def test_gather_form_is_the_op(last):
    g = torch.Generator().manual_seed(0)
    shapes = [(9, 7), (5, 4), (1, 2)]
    value = torch.randn(2, sum(h * w for h, w in shapes), 3, 8, generator=g, dtype=torch.float64)
    points = torch.rand(2, 11, 3, last, generator=g, dtype=torch.float64) * 1.4 - 0.2
    offsets = torch.randn(2, 11, 3, 3, 4, 2, generator=g, dtype=torch.float64) * 3
    logits = torch.randn(2, 11, 3, 3, 4, generator=g, dtype=torch.float64)
    want = reference.ms_deform_attn_fused(value, shapes, points, offsets, logits)
    torch.testing.assert_close(gather_form(value, shapes, points, offsets, logits), want)


@pytest.mark.parametrize("batch, height, width", [(1, 160, 224), (1, 192, 256), (2, 288, 512), (3, 333, 217)])
def test_onnx_computes_what_the_network_does_at_any_size(exported, batch, height, width):
    import onnxruntime

    model = dino_nb.load_model("dino-tiny", "cpu")
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
    sizes = torch.tensor([[height, width]] * batch)
    with torch.inference_mode():
        want = Program(model)(images, sizes)
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": images.numpy(), "target_sizes": sizes.numpy()})
    assert [array.shape for array in got] == [tuple(tensor.shape) for tensor in want]
    for number in range(batch):
        one = dict(zip(("scores", "labels", "boxes"), (part[number] for part in want)))
        assert difference(one, [part[number : number + 1] for part in got], max(height, width)) is None


def test_onnx_has_no_node_of_ours_and_no_grid_sample(exported):
    graph = onnx.load(str(exported))
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert "GridSample" not in {node.op_type for node in graph.graph.node}
    assert [entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")] == [OPSET]


def test_onnx_file_loads_as_a_detector(exported, photo):
    ours, theirs = dino_nb.load("dino-tiny", "cpu"), dino_nb.load(exported, "cpu")
    assert theirs.class_names == ours.class_names and theirs.input_size == ours.input_size
    want, got = (detector.predict(photo, threshold=0.05) for detector in (ours, theirs))
    assert want.names == got.names
    torch.testing.assert_close(got.scores, want.scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(got.boxes, want.boxes, rtol=1e-3, atol=1e-2)
    assert len(theirs.predict([photo, photo], batch_size=2)) == 2
    with pytest.raises(UserError, match=r"cannot be run on .* pixels: it needs about 64 x 64, to have enough tokens"):
        theirs.predict(photo, scales=[0.25])


def test_onnx_file_of_another_model_is_refused(tmp_path):
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])  # fmt: skip
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(other, str(tmp_path / "other.onnx"))
    with pytest.raises(UserError, match=r"other\.onnx is an ONNX file of another model"):
        dino_nb.load(tmp_path / "other.onnx", "cpu")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"broken\.onnx .* is not an ONNX model"):
        dino_nb.load(tmp_path / "broken.onnx", "cpu")


def test_export_that_computes_something_else_is_not_written_and_says_why(tmp_path, monkeypatch):
    def wrong(value, shapes, points, offsets, logits):
        return gather_form(value, shapes, points, offsets + 1, logits)

    monkeypatch.setattr(module, "gather_form", wrong)
    with pytest.raises(
        UserError,
        match=r"not written: on a drawn.* first op with another result is \w+ \(/model/encoder/layers.0/self_attn",
    ):
        dino_nb.export("dino-tiny", tmp_path / "tiny.onnx")
    assert list(tmp_path.iterdir()) == []


def test_export_whose_file_computes_something_else_names_the_first_op(tmp_path, monkeypatch, photo):
    write = module._write_onnx

    def damaged(program, inputs, path):
        write(program, inputs, path)
        graph = onnx.load(str(path))
        floors = [n for n in graph.graph.node if n.op_type == "Floor" and "encoder/layers.1/self_attn" in n.name]
        floors[0].op_type = "Round"  # the node keeps its name
        onnx.save(graph, str(path))

    monkeypatch.setattr(module, "_write_onnx", damaged)
    with pytest.raises(UserError, match=r"first op with another result is Round \(/model/encoder/layers.1/self_attn/F"):
        dino_nb.export("dino-tiny", tmp_path / "tiny.onnx", images=photo)
    assert list(tmp_path.iterdir()) == []


def test_onnx_for_tensorrt_has_one_node_of_its_plugin_for_each_attention(tmp_path, photo):
    path = dino_nb.export("dino-tiny", tmp_path / "tiny.onnx", "onnx_tensorrt", images=photo)  # checked by what it does
    graph = onnx.load(str(path))
    nodes = [node for node in graph.graph.node if node.domain]
    assert [(node.op_type, node.domain, len(node.input)) for node in nodes] == [(PLUGIN, PLUGIN_DOMAIN, 5)] * 5
    assert {a.name: a.s for a in nodes[0].attribute} == {"plugin_version": b"1", "plugin_namespace": b""}
    assert not graph.functions
    makers = {output: node for node in graph.graph.node for output in node.output}
    for index in (1, 2):  # shapes and starts
        cast = makers[nodes[0].input[index]]
        assert (cast.op_type, cast.attribute[0].i) == ("Cast", onnx.TensorProto.INT32)
    onnx.checker.check_model(graph)
    with pytest.raises(UserError, match="not an ONNX model that can be run"):
        dino_nb.load(path, "cpu")


def test_plugin_body_is_the_op():
    g = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[9, 7], [5, 4], [1, 2]])
    value = torch.randn(2, 85, 3, 8, generator=g, dtype=torch.float64)
    places = torch.rand(2, 11, 3, 3, 4, 2, generator=g, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(2, 11, 3, 3, 4, generator=g, dtype=torch.float64)
    want = reference.ms_deform_attn(value, shapes.tolist(), places, weights)
    got = PluginBody()(value, shapes, torch.tensor([0, 63, 83]), places, weights)
    torch.testing.assert_close(got.flatten(2), want)


def test_export_takes_the_images_to_be_checked_on(tmp_path, photo):
    path = dino_nb.export(dino_nb.load("dino-tiny", "cpu"), tmp_path / "tiny.onnx", images=photo)
    assert path.stat().st_size > 1_000_000
    with pytest.raises(UserError, match=r"exists: name another file"):
        dino_nb.export("dino-tiny", path)
    with pytest.raises(UserError, match=r"format='onix' is not one of .* Did you mean 'onnx'"):
        dino_nb.export("dino-tiny", format="onix")
    with pytest.raises(UserError, match="is exported already"):
        dino_nb.export(path, tmp_path / "again.onnx")


def test_program_of_torch_export_runs_without_this_package(tmp_path, photo):
    small = dataclasses.replace(PRESETS["dino-tiny"], enc_layers=1, dec_layers=1, proposal_nms=0.0)
    torch.manual_seed(0)
    model = dino_nb.build_model(small)
    model.input_size = (160, 266)
    path = dino_nb.export(model, tmp_path / "tiny.pt2", "torch_export", images=photo)
    script = (
        "import sys, torch; program = torch.export.load(sys.argv[1]).module();"
        "out = program(torch.rand(2, 3, 192, 288), torch.tensor([[192, 288]] * 2));"
        "print([tuple(part.shape) for part in out], 'dino_nb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[(2, 60), (2, 60), (2, 60, 4)] False", done.stderr[-2000:]


def test_command_line_exports_and_says_that_it_was_checked(tmp_path, photo, capsys):
    command = ["export", "dino-tiny", "-o", str(tmp_path / "tiny.onnx"), "--images", str(photo)]
    assert main(command) == 0
    assert "MB, onnx, checked against the network." in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "tiny.onnx"), str(photo), "-o", str(tmp_path / "out")]) == 0
