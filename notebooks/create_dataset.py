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
# # Make a data set that is known to be good
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dino-nb/dino-nb/blob/main/notebooks/create_dataset.ipynb)
#
# Turn annotations of any usual format into one folder to train and score on, or learn which line of which file is not
# right.

# %% [markdown]
# ## 1 · What to convert
#
# Everything you may want to change is here. As it stands, the notebook makes some pictures of coloured shapes,
# annotated as Pascal VOC, and converts these: it runs anywhere in a few seconds.
#
# | `SOURCE` | is |
# |---|---|
# | *(empty)* | the sample |
# | `upload` | a zip that you choose from your computer (in Colab) |
# | `/content/drive/MyDrive/pictures` | a folder, a zip or tar, or one annotation file, on Drive or on this machine |
# | `https://drive.google.com/...` | a link to a file that is shared with everyone who has the link |
#
# Read are COCO (also Roboflow's export), Pascal VOC, YOLO, LabelMe, CVAT and CSV; the format is found by looking.

# %% cellView="form" tags=["parameters"]
SOURCE = ""  # @param {type:"string"}
PICTURES = ""  # @param {type:"string"}
FORMAT = "auto"  # @param ["auto", "coco", "voc", "yolo", "labelme", "cvat", "csv"]
CLASSES = ""  # @param {type:"string"}
VAL_FRACTION = 0.2  # @param {type:"slider", min:0.05, max:0.5, step:0.05}
SEED = 0  # @param {type:"integer"}
SKIP_BAD = False  # @param {type:"boolean"}
OVERWRITE = False  # @param {type:"boolean"}
COCODIR = "coco"  # @param {type:"string"}
FIXED_COPY = ""  # @param {type:"string"}
KEEP_AS = "kept/coco.zip"  # @param {type:"string"}

# %% [markdown]
# `PICTURES` is their folder, if they are not beside the annotations. `CLASSES` names the classes, as `cat, dog`, where
# the source only numbers them. `VAL_FRACTION` is the share kept for scoring, if the source is not divided yet.
# `SKIP_BAD` leaves out faulty lines and lists them, rather than refuse the source. `OVERWRITE` replaces what an earlier
# run left in `COCODIR`.
#
# The next cell installs the package where it is missing, and leaves the session's PyTorch as it is.

# %%
import importlib.util

if importlib.util.find_spec("dino_nb") is None:
    # %pip install -q "dino-nb @ git+https://github.com/dino-nb/dino-nb"
    print("dino_nb is installed.")

# %% [markdown]
# What this session has. Nothing here needs a GPU. Your Drive is mounted only if a path above is on it.

# %%
import dino_nb

if any(path.startswith("/content/drive") for path in (SOURCE, PICTURES, COCODIR, FIXED_COPY, KEEP_AS)):
    dino_nb.colab.mount_drive()
dino_nb.info()

# %% [markdown]
# ## 2 · The source
#
# What lies on Drive is copied to the local disk first, since Drive is slow for many small files. The sample is made
# with the annotations of a picture each in an XML file, and lists of the pictures to train on and to score.

# %%
from pathlib import Path

from dino_nb.prepare.sample import make_sample

if SOURCE == "upload":
    assert dino_nb.colab.in_colab(), "upload is Colab's: elsewhere, set SOURCE to the path of the file"
    from google.colab import files

    SOURCE = next(iter(files.upload()))
if not SOURCE:
    SOURCE, COCODIR, OVERWRITE = make_sample("sample_voc", n_train=40, n_val=10, format="voc"), "sample_coco", True
if Path(SOURCE).exists():
    SOURCE = dino_nb.colab.stage(SOURCE)
print(f"{SOURCE} -> {COCODIR}")

# %% [markdown]
# ## 3 · Convert
#
# Splits that the source has are kept; else pictures are divided so that every class is on both sides, and never the
# same picture. A fault is told with its file and line, and then nothing is written. The report counts pictures and
# boxes, and names every box that had to be left out.

# %%
report = dino_nb.convert_dataset(
    SOURCE,
    COCODIR,
    format=None if FORMAT == "auto" else FORMAT,
    images=dino_nb.colab.stage(PICTURES) if PICTURES else None,
    class_names=CLASSES or None,
    val_fraction=VAL_FRACTION,
    seed=SEED,
    skip_bad=SKIP_BAD,
    overwrite=OVERWRITE,
)
assert report.splits["train"]["boxes"] > 0
report

# %% [markdown]
# ## 4 · Check
#
# Now every picture is decoded and every number looked at. *Errors* would spoil the training, *warnings* may be what
# you want, *notes* are worth knowing. Each says what follows from it and what to do.

# %%
checked = dino_nb.check_dataset(COCODIR)
assert checked.splits["train"]["images"] == report.splits["train"]["pictures"]
checked

# %% [markdown]
# Where something can be put right without asking you, a repaired copy is written to `FIXED_COPY`, with a log of each
# change, and the rest of this notebook goes on with the copy. Left empty, nothing is changed.

# %%
from dino_nb.prepare.repair import fix_dataset

if FIXED_COPY:
    fixed = fix_dataset(COCODIR, FIXED_COPY)
    COCODIR, checked = FIXED_COPY, fixed.report
    print(fixed)
assert checked.ok, "errors are left: see the report above, put them right in the source, and convert again"

# %% [markdown]
# ## 5 · Look
#
# Which classes, how many boxes a picture, how large, of what shape, and a sheet of pictures with their boxes. Classes
# with few boxes are learnt badly. Boxes under 32 x 32 pixels are what COCO calls small, and the hardest to find.

# %%
from matplotlib import pyplot as plt

figure = dino_nb.viz.summary_figure(COCODIR, "train")
assert len(figure.get_axes()) > 5
plt.close(figure)  # else it is shown twice
figure

# %% [markdown]
# Flip through the pictures that the network will be scored on. A box that is wrong here is counted against the network.

# %%
split = "val" if "val" in report.splits else "train"
browser = dino_nb.viz.browse(COCODIR, split)
assert browser.position.max + 1 == report.splits[split]["pictures"] or FIXED_COPY
browser

# %% [markdown]
# ## 6 · Keep it
#
# A Colab session forgets its disk. Packed into one file, on Drive if `KEEP_AS` is a path such as
# `/content/drive/MyDrive/coco.zip`, the data set is back in the next session with one call: `restore(KEEP_AS, "coco")`.

# %%
from dino_nb.prepare.archive import is_archive, pack

if KEEP_AS:
    kept = pack(COCODIR, KEEP_AS)
    assert is_archive(kept)
    print(f"{kept}: {kept.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# ## 7 · What next
#
# - **evaluate**: how well a published network does on these pictures as it is.
# - **fine-tune**: teach it your classes. Give it the folder made here, or the archive's after `restore`.
# - The same from a terminal: `dino-nb convert SOURCE COCODIR`, then `dino-nb check COCODIR`.
# - Detections with the ids of your own files: `dino-nb convert results.json own.json --results-of COCODIR`.
