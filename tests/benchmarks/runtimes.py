"""An exported ONNX file in other runtimes: does it compute what the network does, and in what time.

    python -m tests.benchmarks.runtimes dino-tiny IMAGE...              # five images, resized to five sizes
    python -m tests.benchmarks.runtimes DINO_4scale IMAGE... --input_size 480 640

A name of a preset gives random weights. CPU time of one thread: the best of ``--repeat`` turns, image by image.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

import dino_nb
from dino_nb.data.images import open_image
from dino_nb.data.transforms import eval_transform, normalize
from dino_nb.inference.export_parity import difference, onnx_runner
from dino_nb.models.postprocess import postprocess
from dino_nb.presets import PRESETS

SIZES = ((640, 480), (480, 640), (800, 600), (320, 240), (1000, 333))


def openvino_runner(path):
    """Runs an ONNX file with OpenVINO; it is not installed with this package."""
    import openvino

    # without the hint it computes in bfloat16 where the processor can
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda images, sizes: list(compiled([images.numpy(), sizes.numpy()]).values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--input_size", type=int, nargs=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.checkpoint in PRESETS and args.checkpoint != "dino-tiny":
        model = dino_nb.build_model(args.checkpoint).eval()
    else:
        model = dino_nb.load_model(args.checkpoint, "cpu")
    model.input_size = tuple(args.input_size or model.input_size)
    with tempfile.TemporaryDirectory() as folder:
        path = dino_nb.export(model, Path(folder) / "model.onnx", images=args.images[:1])
        runs = {"onnxruntime": onnx_runner(path, model.config.num_feature_levels), "openvino": openvino_runner(path)}
    model.optimize()
    transform = eval_transform(*model.input_size)
    for file, size in zip(args.images, SIZES):
        image = open_image(file).resize(size)
        inputs, target = normalize(transform(image))[None], (image.height, image.width)
        with torch.inference_mode():
            (want,) = postprocess(model(inputs), [target], model.config.num_select)
        calls = {"torch": lambda inputs=inputs: model(inputs)}
        for name, run in runs.items():
            print(f"{name} on {size}: {difference(want, run(inputs, torch.tensor([target])), max(size)) or 'the same'}")
            calls[name] = lambda run=run, inputs=inputs, target=target: run(inputs, torch.tensor([target]))
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(args.repeat):
            for name, call in calls.items():
                with torch.inference_mode():
                    start = time.process_time()
                    call()
                best[name] = min(best[name], time.process_time() - start)
        shape = f"{inputs.shape[-2]} x {inputs.shape[-1]}"
        print(f"{size} as {shape}:", *(f"{name} {1e3 * took:.0f} ms," for name, took in best.items()), flush=True)


if __name__ == "__main__":
    main()
