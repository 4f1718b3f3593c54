# ---
# jupyter:
#   colab:
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
# # Make a data set you can trust
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dino-nb/dino-nb/blob/main/notebooks/create_dataset.ipynb)
#
# Turn annotations of any usual format into one checked folder for training and scoring, or learn which line of which
# file is wrong. As it stands, this notebook runs on drawn images in half a minute and needs no GPU.
#
# The series: **create_dataset** →
# [evaluate](evaluate.ipynb) →
# [fine-tune](fine-tune.ipynb) →
# [inference_and_visualization](inference_and_visualization.ipynb)

# %% [markdown]
# ## 1 · What to convert
#
# Everything you may want to change is in this form. `SOURCE` says where your images and annotations are:
#
# | `SOURCE` | means |
# |---|---|
# | *(empty)* | the sample: drawn shapes, annotated as Pascal VOC |
# | `cells`, `aerial` | the same with drawn blood cells, or with cars and houses from above |
# | `upload` | a zip that you choose from your computer (in Colab) |
# | `/content/drive/MyDrive/images.zip` | a folder, a zip or tar, or one annotation file, on Drive or on this machine |
# | `https://drive.google.com/...` | a link to a file that is shared with everyone who has the link |
# | `roboflow://workspace/project/3`, `kaggle://owner/dataset`, `hf://datasets/owner/name` | a data set there |
#
# A data set on a host needs your key there: in Colab under *Secrets* (the key at the left edge), elsewhere as an
# environment variable: `ROBOFLOW_API_KEY`, `KAGGLE_USERNAME` and `KAGGLE_KEY`, `HF_TOKEN`. Public ones on Kaggle and
# Hugging Face need none.
#
# The format is recognised by its content: COCO (Roboflow's export too), Pascal VOC, YOLO, LabelMe, CVAT, CSV and
# others.

# %% cellView="form" tags=["parameters"]
SOURCE = ""  # @param {type:"string"}
IMAGES = ""  # @param {type:"string"}
FORMAT = "auto"  # @param ["auto", "coco", "voc", "yolo", "labelme", "cvat", "csv", "via", "createml", "supervisely"]
CLASSES = ""  # @param {type:"string"}
VAL_FRACTION = 0.2  # @param {type:"slider", min:0.05, max:0.5, step:0.05}
SEED = 0  # @param {type:"integer"}
SKIP_BAD = False  # @param {type:"boolean"}
OVERWRITE = False  # @param {type:"boolean"}
COCODIR = "coco"  # @param {type:"string"}
FIXED_COPY = ""  # @param {type:"string"}
KEEP_AS = "kept/coco.zip"  # @param {type:"string"}
SEND_TO = ""  # @param {type:"string"}
INSTALL_FROM = "git+https://github.com/dino-nb/dino-nb"  # @param {type:"string"}

# %% [markdown]
# - `IMAGES`: the folder of the images, if they are not beside the annotations.
# - `CLASSES`: names such as `cat, dog`, where the source only numbers its classes.
# - `VAL_FRACTION`: the share of images kept for scoring, if the source is not split yet.
# - `SKIP_BAD`: leave out faulty lines and list them, instead of refusing the source.
# - `OVERWRITE`: replace what an earlier run wrote to `COCODIR`.

# %% [markdown]
# ## 2 · Install
#
# If the package is there already, nothing happens. Otherwise it is installed from the first of these that exists: a
# clone of the repository around or beside this notebook, a wheel or zip of it there or in a folder `dino-nb` on your
# mounted Drive, and last the address in `INSTALL_FROM`. The session's PyTorch stays as it is. *(20 seconds)*

# %% tags=["install"]
import importlib.util, subprocess, sys
from pathlib import Path

if not all(map(importlib.util.find_spec, ("dino_nb", "pycocotools", "av"))):
    places = (".", "..", "dino-nb", "/content/drive/MyDrive/dino-nb", "/kaggle/input/dino-nb")
    near = [folder for folder in map(Path, places) if folder.is_dir()]
    packed = [file for folder in near for file in (*folder.glob("dino_nb*.whl"), *folder.glob("dino-nb*.zip"))]
    clones = [folder for folder in near if (folder / "dino_nb/version.py").is_file()]
    origin = str([*(path.resolve() for path in clones + packed), INSTALL_FROM][0])
    if subprocess.call([sys.executable, "-m", "pip", "install", "-q", origin, "av>=14.2"]):
        raise SystemExit(f"Not installed: pip failed on {origin}. Is the internet on? Is INSTALL_FROM right?")

# %% [markdown]
# ## 3 · The session
#
# What this machine has. Nothing in this notebook needs a GPU: keep yours for the training.
# Google Drive is mounted if a path in the form is on it.

# %%
import dino_nb

dino_nb.colab.setup(SOURCE, IMAGES, COCODIR, FIXED_COPY, KEEP_AS, SEND_TO, gpu=False, made_for="0.1.0")

# %% [markdown]
# ## 4 · The source
#
# What is on Drive is copied to the local disk first: Drive is slow for many small files. A sample is drawn here.

# %%
source = dino_nb.colab.source(SOURCE, n_train=40, n_val=10, format="voc")
target = dino_nb.colab.clean(COCODIR) if SOURCE else "sample/coco"
print(f"{source} -> {target}")

# %% [markdown]
# ## 5 · Convert
#
# Splits that the source has are kept. Otherwise images are divided so that every class is on both sides, and equal
# images stay on one side: an image that was trained on says nothing about new ones. If something is wrong, you are told
# the file and the line, and nothing is written. The report counts images and boxes and names every box left out.

# %% tags=["convert"]
options = {"val_fraction": VAL_FRACTION, "seed": SEED, "skip_bad": SKIP_BAD, "overwrite": OVERWRITE or not SOURCE}
options |= {"format": None if FORMAT == "auto" else FORMAT, "class_names": CLASSES or None}
options |= {"images": dino_nb.colab.stage(IMAGES)} if IMAGES.strip() else {}
report = dino_nb.convert_dataset(source, target, **options)
report

# %% [markdown]
# ## 6 · Check
#
# Now every image is decoded and every number is looked at. *Errors* would spoil the training, *warnings* may be what
# you want, *notes* are worth knowing. Each says what follows from it and what to do.

# %% tags=["check"]
checked = dino_nb.check_dataset(target)
checked

# %% [markdown]
# What can be repaired without asking you is repaired in a copy, `FIXED_COPY`, with a log of every change, and the
# rest of this notebook uses the copy. If you leave the field empty, nothing is changed.

# %% tags=["repair"]
if copy := dino_nb.colab.clean(FIXED_COPY):
    fixed = dino_nb.fix_dataset(target, copy)
    target, checked = copy, fixed.report
    print(fixed)
checked = checked.raise_if_errors()

# %% [markdown]
# ## 7 · Look
#
# A minute of looking saves hours of training. How many boxes does each class have? Under about 50 it will be learned
# badly: label more of these first. How large are the boxes? Those under 32 x 32 pixels are what COCO calls small, and
# the hardest to find. How many are in one image?

# %% tags=["look"]
from matplotlib import pyplot as plt

figure = dino_nb.viz.summary_figure(target, "train")
plt.close(figure)  # otherwise it is shown twice
figure

# %% [markdown]
# Step through the images that the network will be scored on. A box that is wrong here counts against the network.

# %% tags=["browse"]
split = "val" if "val" in report.splits else "train"
browser = dino_nb.viz.browse(target, split)
browser

# %% [markdown]
# ## 8 · Keep it
#
# A Colab session forgets its disk. Packed into one file on Drive, with `KEEP_AS` set to a path such as
# `/content/drive/MyDrive/coco.zip`, the data set is there in every later session: give that path as `COCODIR` to the
# other notebooks, as it is. Without a Drive, `SEND_TO` set to `download` saves it on your computer.

# %% tags=["keep"]
if archive := dino_nb.colab.clean(KEEP_AS):
    kept = dino_nb.pack(target, archive)
    print(f"{kept}: {kept.stat().st_size / 1e6:.1f} MB")
    dino_nb.colab.send(kept, SEND_TO)

# %% [markdown]
# ## 9 · What next
#
# - [evaluate](evaluate.ipynb): how well does a published network do on these images as it is?
# - [fine-tune](fine-tune.ipynb): teach it your classes. `COCODIR` takes the folder made here, or `KEEP_AS`.
# - In a terminal: `dino-nb convert SOURCE COCODIR`, then `dino-nb check COCODIR`.
# - Detections with the ids of your own files: `dino-nb convert results.json own.json --results-of COCODIR`.
