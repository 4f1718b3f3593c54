"""An image with controls: widgets in a live notebook, the image alone in a saved one, and plain calls anywhere.

Only what ipywidgets 7.7 and 8 share is used.
"""

import base64
import html
import importlib
import io
import re
import secrets
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

from PIL import Image

from dino_nb.errors import UserError, did_you_mean


class Scene:
    """Images that a :class:`View` steps through; ``values`` are those of its controls by name.

    Attributes:
        count: how many; unit: what each is. controls: name -> (class in ipywidgets, its arguments).
        shown: ``shown(index, **values) -> (image, line of HTML about it)``.
        clicked: ``clicked(x, y)`` in shares of the image where a click on it means something, else None.
    """

    count: int
    unit: ClassVar[str] = "image"
    controls: Mapping[str, tuple[str, dict[str, Any]]] = {}
    shown: Any
    clicked: Any = None

    def order(self, **values: Any) -> Sequence[int]:
        """The images to step through, from 0."""
        return range(self.count)

    def summary(self, **values: Any) -> str:
        """HTML about all images."""
        return ""

    def view(self) -> "View":
        """With controls."""
        return View(self)

    def _ipython_display_(self) -> None:
        self.view()._ipython_display_()


class View:
    """An image that follows its controls.

    Attributes:
        index: the number of the shown image, from 0.
        image: the ``PIL.Image`` that is shown. caption: the line of HTML above it. summary: that about all images.
        position: the slider of the image's number, from 1. controls: the other widgets by name.
        widget: all of it, an ipywidgets ``VBox``; None where ipywidgets is not installed.

    :meth:`set` moves the controls from code.
    """

    def __init__(self, scene: Scene) -> None:
        if scene.count == 0:
            raise UserError("there is no image to show.")
        self.scene, self.index, self._busy = scene, 0, False
        self._key = f"dino-{secrets.token_hex(4)}"
        try:
            widgets: Any = importlib.import_module("ipywidgets")
        except ImportError:
            widgets = None
        place = {"value": 1, "min": 1, "max": scene.count, "description": scene.unit, "continuous_update": False}
        self.position = _make(widgets, "IntSlider", place)
        self.controls = {name: _make(widgets, kind, options) for name, (kind, options) in scene.controls.items()}
        self.widget = self._lay_out(widgets) if widgets else None
        self._update()

    def set(self, index: int | None = None, **values: Any) -> "View":
        """Show image ``index`` (from 0) and move the controls, such as ``threshold=0.5``; returns the view."""
        for name in values:
            if name not in self.controls:
                known = ", ".join(self.controls)
                raise UserError(f"there is no control {name!r}.{did_you_mean(name, self.controls)} There are: {known}.")
        for name in values.get("classes", ()):
            if name not in (known := self.controls["classes"].options):
                raise UserError(f"there is no class {name!r}.{did_you_mean(name, known)}")
        if index is not None and not 0 <= index < self.scene.count:
            raise UserError(f"there is no image {index}: they go from 0 to {self.scene.count - 1}.")
        self._busy = True
        for name, value in values.items():
            self.controls[name].value = value
        self._busy = False
        self.index = self.index if index is None else index
        self._update()
        return self

    def step(self, by: int) -> None:
        """Go ``by`` images on, or back if negative; stops at both ends."""
        order = self._order()
        place = order.index(self.index) if self.index in order else 0
        self.index = order[min(max(place + by, 0), len(order) - 1)]
        self._update()

    def _values(self) -> dict[str, Any]:
        return {name: control.value for name, control in self.controls.items()}

    def _order(self) -> list[int]:
        return list(self.scene.order(**self._values())) or list(range(self.scene.count))

    def _changed(self, change: Any) -> None:
        if not self._busy:
            if change.owner is self.position:
                self.index = self._order()[min(self.position.value, self.position.max) - 1]
            self._update()

    def _update(self) -> None:
        values, order = self._values(), self._order()
        if self.index not in order:  # the next of those left
            self.index = next((i for i in order if i > self.index), order[-1])
        place = order.index(self.index)
        self._busy = True
        self.position.max = max(len(order), self.position.value)  # a slider refuses a maximum below its value
        self.position.value, self.position.max = place + 1, len(order)
        self._busy = False
        try:
            self.image, self.caption = self.scene.shown(self.index, **values)
        except UserError as error:  # a damaged image must not end the walk through the others
            self.image, self.caption = Image.new("RGB", (480, 40), "#eee"), f"<b>{html.escape(str(error))}</b>"
        self.summary = self.scene.summary(**values)
        if self.widget is not None:
            self._about.value = self.summary
            self._line.value = f"{place + 1} of {len(order)} &nbsp; {self.caption}"
            self._shown.value = _jpeg(self.image)

    def _on_click(self, change: Any) -> None:
        place = [float(share) for share in re.findall(r"\d\.?\d*", change.new)]
        if len(place) == 2:
            self.scene.clicked(*(min(max(share, 0.0), 1.0) for share in place))
            self._update()

    def _lay_out(self, widgets: Any) -> Any:
        self._line, self._about, self._shown = widgets.HTML(), widgets.HTML(), widgets.Image(format="jpeg")
        steps = []
        for sign, tip, by in (("◀", "back (←)", -1), ("▶", "forward (→)", 1)):
            button = widgets.Button(description=sign, tooltip=tip)
            button.on_click(lambda _, by=by: self.step(by))
            button.add_class("dino-back" if by < 0 else "dino-forward")
            steps.append(button)
        for control in [self.position, *self.controls.values()]:
            control.observe(self._changed, names="value")
        checks = [control for control in self.controls.values() if isinstance(control, widgets.Checkbox)]
        sliders = [c for name, c in self.controls.items() if name != "classes" and c not in checks]
        rows = [self.position, widgets.HBox(steps)] if self.scene.count > 1 else []
        columns = [widgets.VBox([*rows, *sliders, widgets.HBox(checks)])]
        if "classes" in self.controls:
            hint = widgets.HTML("<small>none chosen: all classes; Ctrl or ⌘ adds to the choice</small>")
            columns.append(widgets.VBox([self.controls["classes"], hint]))
        top = widgets.HBox(columns)
        top.add_class("dino-controls")
        parts = [widgets.HTML(f"<style>{_CSS}</style>"), top, self._about, self._line, self._shown]
        if self.scene.clicked is not None:  # the page writes into this text where the image was clicked
            self.click = widgets.Text()
            self.click.add_class("dino-click")
            self.click.observe(self._on_click, names="value")
            parts.append(self.click)
        box = widgets.VBox(parts)
        for name in ("dino-view", f"{self._key}-live"):
            box.add_class(name)
        return box

    def _ipython_display_(self) -> None:
        """Two outputs: the image for a notebook that is opened again, hidden while the widgets live, and these."""
        display = importlib.import_module("IPython.display").display
        pixels = base64.b64encode(_jpeg(self.image)).decode("ascii")
        parts = {"KEY": self._key, "IMAGE": pixels, "CAPTION": self.caption, "SUMMARY": self.summary}
        still = re.sub("|".join(parts), lambda match: parts[match[0]], _STILL)
        display({"text/html": still, "text/plain": repr(self)}, raw=True)
        if self.widget is not None:
            mime = "application/vnd.jupyter.widget-view+json"
            model = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
            display({mime: model, "text/plain": repr(self)}, raw=True)

    def __repr__(self) -> str:
        return f"View({self.scene.unit} {self.index + 1} of {self.scene.count})"


# Controls stand side by side where there is room, else below each other, names of sliders then above their tracks.
_CSS = """
.dino-view { container-type: inline-size; }
.dino-view svg, .dino-view img { max-width: 100%; height: auto; align-self: flex-start; }
.dino-view figure { display: inline-block; margin: 0 1em 0 0; }
.dino-view figcaption { font-size: 0.85em; line-height: 1.4; }
.dino-view .widget-html-content { line-height: 1.5; }
.dino-view .widget-html, .dino-view .widget-html-content { max-width: 100%; height: auto; white-space: normal; }
.dino-controls { flex-flow: row wrap; max-width: 56em; }
.dino-controls > * { flex: 1 1 22em; min-width: 0; }
.dino-controls .widget-hbox { flex-flow: row wrap; }
.dino-controls button { width: 3em; }
.dino-controls .widget-checkbox { width: auto; max-width: 100%; margin-right: 1em; }
.dino-controls .widget-checkbox label { width: auto; }
.dino-controls .widget-hslider, .dino-controls .widget-select-multiple { width: auto; max-width: 100%; height: auto; }
.dino-controls .widget-hslider .widget-label, .dino-controls .widget-select-multiple .widget-label { width: 8em; }
.dino-controls select { min-width: 0; flex: 1 1 8em; }
.dino-click { display: none; }
@container (max-width: 32em) {
  .dino-controls .widget-hslider, .dino-controls .widget-select-multiple { flex-flow: row wrap; }
  .dino-controls .widget-hslider .widget-label { width: 100%; text-align: left; line-height: 1.6; height: auto; }
  .dino-controls .widget-select-multiple .widget-label { width: 100%; text-align: left; }
  .dino-controls .slider-container { min-width: 8em; }
}"""
# Arrow keys step through the images while the pointer or the focus is on the view, but not in a slider or a list.
_STILL = """<style>body:has(.KEY-live) .KEY-still { display: none }</style>
<div class="KEY-still"><div>SUMMARY</div><div>CAPTION</div>
<img style="max-width: 98%" src="data:image/jpeg;base64,IMAGE"></div>
<script>
{
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: ".dino-back", ArrowRight: ".dino-forward" }[event.key];
  const view = document.querySelector(".KEY-live");
  if (!by || !view || !view.matches(":hover, :focus-within")) return;
  if (event.target.closest("input, select, textarea, [role=slider], .ui-slider-handle, .cm-editor")) return;
  view.querySelector(by)?.click();
  event.preventDefault();
  event.stopPropagation();
}, true);
document.addEventListener("click", (event) => {
  const view = event.target.closest(".KEY-live"), text = view?.querySelector(".dino-click input");
  if (!text || event.target.tagName !== "IMG") return;
  const box = event.target.getBoundingClientRect();
  const place = [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
  text.value = place.map((share) => share.toFixed(4)).join(" ");
  for (const kind of ["input", "change"]) text.dispatchEvent(new Event(kind, { bubbles: true }));
});
const looking = setInterval(() => {  // opened again without a kernel: the image is enough
  const area = document.querySelector(".KEY-still")?.closest(".jp-OutputArea");
  for (const output of area?.querySelectorAll(".jp-OutputArea-output") ?? [])  // hidden: it is not ours to remove
    output.style.display = output.textContent.startsWith("Error displaying widget") ? "none" : "";
}, 1000);
setTimeout(() => clearInterval(looking), 30000);
}  // a page may hold several views: nothing is declared outside
</script>"""


def _make(widgets: Any, kind: str, options: dict[str, Any]) -> Any:
    if widgets is None:
        return SimpleNamespace(**{"value": () if kind == "SelectMultiple" else None, **options})
    return getattr(widgets, kind)(**options)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
