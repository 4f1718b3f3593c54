# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     provenance: []
#   jupytext:
#     cell_metadata_filter: tags,cellView
#     formats: ipynb,py:percent
#     notebook_metadata_filter: accelerator,colab,kernelspec,jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Teach it your classes
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dino-nb/dino-nb/blob/main/notebooks/fine-tune.ipynb)
#
# Fine-tune a DINO checkpoint on your pictures: it starts at the checkpoint's own score and goes up, and a disconnect
# costs minutes.

# %% [markdown]
# ## 1 · What to train
#
# Everything you may want to change is here. As it stands, the notebook makes some pictures of coloured shapes and
# trains a small network that comes with the package a little further: it runs anywhere in under a minute.
#
# | For | set |
# |---|---|
# | your own pictures | `COCODIR` to the folder that *create_dataset* made |
# | the published network | `CHECKPOINT` to `dino-4scale-r50-24ep`, or another name that `dino-nb zoo` lists |
# | a network of your own | `CHECKPOINT` to its file, such as `/content/drive/MyDrive/run/checkpoint_best.pth` |
# | a real run | `EPOCHS` to 30 or so; it stops by itself when nothing is gained any more |
# | nothing lost on Colab | `DRIVE_DIR` to a folder such as `/content/drive/MyDrive/run` |

# %% cellView="form" tags=["parameters"]
COCODIR = ""  # @param {type:"string"}
CHECKPOINT = "dino-tiny"  # @param {type:"string"}
PRESET = "auto"  # @param ["auto", "finetune", "t4", "tiny", "tiny-finetune"]
EPOCHS = 2  # @param {type:"integer"}
BATCH_SIZE = 0  # @param {type:"integer"}
LEARNING_RATE = 0.0  # @param {type:"number"}
FROZEN = ""  # @param {type:"string"}
RESUME = True  # @param {type:"boolean"}
MAX_HOURS = 11.0  # @param {type:"number"}
OUTPUT_DIR = "training"  # @param {type:"string"}
DRIVE_DIR = ""  # @param {type:"string"}

# %% [markdown]
# `BATCH_SIZE` and `LEARNING_RATE` of 0 are the recipe's own. `FROZEN` names parts that are not trained, such as
# `backbone`. With `RESUME` a run that `OUTPUT_DIR` or `DRIVE_DIR` holds is gone on with; a finished one stays as it is.
# `MAX_HOURS` ends the run in good order before Colab does.
#
# The next cell installs the package where it is missing, and leaves the session's PyTorch as it is.

# %%
import importlib.util

if importlib.util.find_spec("dino_nb") is None:
    # %pip install -q "dino-nb[fast] @ git+https://github.com/dino-nb/dino-nb"
    print("dino_nb is installed.")

# %% [markdown]
# What this session has. A published network wants a GPU (Runtime > Change runtime type);
# the small one needs none.

# %%
import torch

import dino_nb

if any(str(path).startswith("/content/drive") for path in (COCODIR, CHECKPOINT, OUTPUT_DIR, DRIVE_DIR)):
    dino_nb.colab.mount_drive()
dino_nb.info()

# %% [markdown]
# With no folder named above, the sample is made here: shapes of five kinds, with their annotations.

# %%
from dino_nb.prepare.sample import make_sample

if not COCODIR:
    COCODIR = make_sample("sample", n_train=32, n_val=12)
elif str(COCODIR).startswith("/content/drive"):
    COCODIR = dino_nb.colab.stage(COCODIR)  # reading pictures from Drive in each epoch would take most of the time
print(f"training {CHECKPOINT} on {COCODIR}")

# %% [markdown]
# ## 2 · Train
#
# The data set is checked, and classes are paired with the checkpoint's by name: a class that it knows keeps what was
# learned about it. A table says which tensors were taken over. Then the network is scored before the first step, and
# after each epoch.
#
# The stop button finishes the step, saves, and leaves everything usable. Run the cell again to go on.

# %%
small_gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)
fitting = "tiny-finetune" if CHECKPOINT == "dino-tiny" else "t4" if small_gpu else "finetune"
recipe = fitting if PRESET == "auto" else PRESET
choices = {"batch_size": BATCH_SIZE, "lr": LEARNING_RATE, "frozen": tuple(FROZEN.split())}

result = dino_nb.finetune(
    COCODIR,
    CHECKPOINT,
    preset=recipe,
    epochs=EPOCHS,
    output_dir=OUTPUT_DIR,
    drive_dir=DRIVE_DIR or None,
    resume="auto" if RESUME else None,
    overwrite=not RESUME,
    max_hours=MAX_HOURS or None,
    **{name: value for name, value in choices.items() if value},
)
assert result.history and result.history[0]["epoch"] == 0

# %% [markdown]
# ## 3 · What was gained
#
# Epoch 0 is the checkpoint as it came. The best epoch is the one that is kept as `checkpoint_best.pth`; if training
# gained nothing that is the checkpoint itself.

# %%
first, best = result.history[0], result.best
print(f"before: AP {first['AP']:.3f}, AP50 {first['AP50']:.3f}")
print(f"best:   AP {best['AP']:.3f}, AP50 {best['AP50']:.3f} at epoch {best['epoch']}  ({result.stopped})")
assert best["AP"] >= first["AP"]
assert CHECKPOINT != "dino-tiny" or recipe != "tiny-finetune" or first["AP50"] > 0.5, (
    "it starts where the checkpoint stands"
)

# %% [markdown]
# Loss, score and learning rate over the run. A falling loss without a rising score means too few pictures; a score
# that still rises at the end means too few epochs.

# %%
from IPython.display import Image

curves = Image(filename=str(result.output_dir / "curves.png"))
assert len(curves.data) > 1000
curves

# %% [markdown]
# The best network, class by class.

# %%
assert result.report is None or result.report.metrics["AP"] > 0
result.report

# %% [markdown]
# ## 4 · Look at it
#
# What the trained network finds in pictures that it was not trained on.

# %%
from pathlib import Path

detector = dino_nb.load(result.checkpoint)
pictures = sorted(Path(COCODIR, "val2017").iterdir())[:4]
results = detector.predict(pictures, threshold=0.3)
assert len(results) == len(pictures)
results[0]

# %% [markdown]
# ## 5 · What next
#
# - `checkpoint_best.pth` in the output folder (and on Drive, if named) holds weights, class names and settings;
#   `checkpoint_best.safetensors` holds the same for other tools.
# - **evaluate**: where it still goes wrong.
# - **inference_and_visualization**: your own pictures and videos.
# - The same from a terminal: `dino-nb train COCODIR --pretrain_model_path CHECKPOINT --preset t4 --resume auto`.
