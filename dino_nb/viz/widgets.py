"""Looking through pictures with sliders: detections, annotations, and both side by side.

Only what ipywidgets 7.7 and 8 share is used. Where no front-end shows widgets (a saved notebook, a converted one), the
picture stands there as it is.
"""

import base64
import html
import io
from collections import Counter
from functools import cache, lru_cache

from PIL import Image

from dino_nb.data.dataset import CocoDataset
from dino_nb.draw import class_colors, draw_boxes
from dino_nb.errors import UserError
from dino_nb.inference.sources import leaves, read
from dino_nb.inference.video import is_video
from dino_nb.viz.sheet import grid

_LONG_SIDE = 900  # pixels of a shown picture at most
_FLOOR = 0.05  # the least score that the threshold slider reaches


def explore(detector, images, threshold=0.3, top=100):
    """Detections with sliders: which picture, the least score, how many at most, which classes.

    Args:
        detector: a ``dino_nb.Detector``. A picture is looked at once, when it is first shown.
        images: anything that ``Detector.predict`` takes, videos excepted.
        threshold, top: where the sliders start.

    Returns:
        A ``View``: put it last in a cell, or ``display`` it.
    """
    found = list(leaves(images))
    if any(isinstance(leaf, str) and is_video(leaf) for leaf in found):
        raise UserError("explore shows pictures; for a video use detector.annotate_video(path, 'out.mp4').")
    colors = class_colors(detector.class_names)

    @lru_cache(maxsize=8)
    def picture(index):
        return next(read(found[index], index))

    @cache
    def detections(index):
        return detector.predict(picture(index).image, threshold=_FLOOR)

    def render(index, threshold, top, classes):
        shown = detections(index).filter(threshold, classes or None, top)
        image, scale = _reduced(picture(index).image)
        return shown.draw(image, scale, colors, enlarge_to=480), _caption(
            picture(index).name, picture(index).image.size, shown.names, colors
        )

    import ipywidgets

    controls = {
        "threshold": ipywidgets.FloatSlider(
            value=max(_FLOOR, threshold), min=_FLOOR, max=1.0, step=0.01, description="least score"
        ),
        "top": ipywidgets.IntSlider(value=min(top, 300), min=1, max=300, description="at most"),
        "classes": _class_picker(detector.class_names),
    }
    return View(len(found), render, controls)


def browse(cocodir, split="val"):
    """The annotated pictures of a split with a slider: what the network is going to learn from, or be scored on.

    Crowd regions are dashed. Returns a ``View``.
    """
    data = CocoDataset(cocodir, split, keep_crowd=True)
    colors = class_colors(data.class_names)

    def render(index, classes):
        drawn, names, size = _annotated(data, index, classes, colors)
        return drawn, _caption(data.path(index).name, size, names, colors)

    return View(len(data), render, {"classes": _class_picker(data.class_names)})


def compare(detector, cocodir, split="val", threshold=0.3):
    """Annotations and detections of a split's pictures side by side. Returns a ``View``."""
    data = CocoDataset(cocodir, split, keep_crowd=True)
    colors = class_colors([*data.class_names, *detector.class_names])

    @cache
    def detections(index):
        return detector.predict(data.path(index), threshold=_FLOOR)

    def render(index, threshold, classes):
        truth, names, size = _annotated(data, index, classes, colors)
        wanted = [name for name in classes if name in detector.class_names] if classes else None
        shown = detections(index).filter(threshold, wanted)
        image, scale = _reduced(shown.image)
        pair = [truth, shown.draw(image, scale, colors, enlarge_to=480)]
        side_by_side = size[0] < 2 * size[1]
        sheet = grid(pair, 2 if side_by_side else 1, ["annotated", "detected"], 1100 if side_by_side else _LONG_SIDE)
        caption = _caption(data.path(index).name, size, names, colors)
        return sheet, f"{caption}<br>detected: {_counts(shown.names, colors)}"

    import ipywidgets

    classes = list(dict.fromkeys([*data.class_names, *(n for n in detector.class_names if n is not None)]))
    controls = {
        "threshold": ipywidgets.FloatSlider(
            value=max(_FLOOR, threshold), min=_FLOOR, max=1.0, step=0.01, description="least score"
        ),
        "classes": _class_picker(classes),
    }
    return View(len(data), render, controls)


class View:
    """A picture with controls: widgets in a live notebook, the picture alone elsewhere.

    Attributes:
        position: the slider of the picture's number, from 0. controls: the other widgets by name.
        image: the ``PIL.Image`` that is shown. caption: the line of HTML above it.
        widget: all of it, an ipywidgets ``VBox``, to be placed in a layout of one's own.
    """

    def __init__(self, count, render, controls):
        import ipywidgets

        if count == 0:
            raise UserError("there is no picture to show.")
        self._render, self.controls = render, controls
        self.position = ipywidgets.IntSlider(min=0, max=count - 1, description="picture", continuous_update=False)
        back, forward = (ipywidgets.Button(description=sign, tooltip=tip) for sign, tip in (("◀", "back"), ("▶", "on")))
        for button, step in ((back, -1), (forward, 1)):
            button.layout.width = "3em"
            button.on_click(lambda _, step=step: self._move(step))
        self._line = ipywidgets.HTML()
        self._picture = ipywidgets.Image(format="jpeg")
        self._picture.layout.max_width = "98%"
        self._picture.layout.align_self = "flex-start"  # else a column stretches it to the page's width
        browser = [ipywidgets.HBox([self.position, back, forward])] if count > 1 else []
        hint = ipywidgets.HTML("<small>none chosen: all classes; Ctrl or ⌘ adds to the choice</small>")
        picker = [ipywidgets.VBox([controls["classes"], hint])] if "classes" in controls else []
        sliders = [control for name, control in controls.items() if name != "classes"]
        rows = ipywidgets.HBox([ipywidgets.VBox(browser + sliders), *picker])
        self.widget = ipywidgets.VBox([rows, self._line, self._picture])
        for control in (self.position, *controls.values()):
            control.observe(self._update, names="value")
        self._update()

    def _move(self, step):
        self.position.value = min(max(self.position.value + step, 0), self.position.max)

    def _update(self, _change=None):
        values = {name: control.value for name, control in self.controls.items()}
        try:
            self.image, self.caption = self._render(self.position.value, **values)
        except UserError as error:  # a damaged picture must not end the walk through the others
            self.image, self.caption = Image.new("RGB", (480, 40), "#eee"), f"<b>{html.escape(str(error))}</b>"
        self._line.value = f"{self.position.value + 1} of {self.position.max + 1} &nbsp; {self.caption}"
        self._picture.value = _encoded(self.image, "JPEG", quality=90)

    def _repr_mimebundle_(self, **_):
        return {
            "text/plain": repr(self),
            "image/png": base64.b64encode(_encoded(self.image, "PNG")).decode("ascii"),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.widget.model_id,
            },
        }

    def __repr__(self):
        return f"View(picture {self.position.value + 1} of {self.position.max + 1})"


def _annotated(data, index, classes, colors):
    """The picture with its annotations, the names of these, and the picture's size."""
    image, target = data[index]
    names = [data.class_names[label] for label in target["labels"].tolist()]
    keep = [i for i, name in enumerate(names) if not classes or name in classes]
    names = [names[i] for i in keep]
    small, scale = _reduced(image)
    crowds = ["dashed" if crowd else "solid" for crowd in target["iscrowd"][keep].tolist()]
    drawn = draw_boxes(small, target["boxes"][keep] * scale, names, colors=colors, enlarge_to=480, line=crowds)
    return drawn, names, image.size


def _reduced(image):
    """The picture scaled down to what a notebook shows, and the factor."""
    scale = min(1.0, _LONG_SIDE / max(image.size))
    if scale == 1:
        return image, scale
    return image.resize([max(1, round(s * scale)) for s in image.size], Image.Resampling.LANCZOS), scale


def _class_picker(names):
    import ipywidgets

    options = [name for name in names if name is not None]
    picker = ipywidgets.SelectMultiple(options=options, rows=min(8, len(options) + 1), description="only")
    return picker


def _caption(name, size, names, colors):
    return f"<b>{html.escape(name)}</b> &nbsp; {size[0]} × {size[1]} &nbsp; {_counts(names, colors)}"


def _counts(names, colors):
    """Names and numbers as HTML with a spot of each class's colour; class names are a stranger's text."""
    spots = [
        f'<span style="color:{colors[name]}">■</span>&thinsp;{count} {html.escape(str(name))}'
        for name, count in Counter(names).most_common()
    ]
    return " &ensp; ".join(spots) or "nothing"


def _encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
