"""Pascal VOC: an XML an image, with or without ``ImageSets/Main/{train,val,test}.txt``.

Corners are taken as they stand: VOC's own count pixels from 1, most tools' that write VOC from 0.
"""

import posixpath
from xml.etree.ElementTree import Element

from dino_nb.prepare.formats.imagesets import image_sets
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.values import bounds, four, image_size, split_of
from dino_nb.prepare.formats.xml_file import parse, text, with_root
from dino_nb.prepare.table import Annotations, ImageRow


def find(source: Source) -> list[str]:
    """Keys of the XML files whose root is ``annotation``."""
    return with_root(source, "annotation")


def read(source: Source, files: list[str]) -> Annotations:
    """All ``files``, with the splits of ``ImageSets``, else of the folders."""
    sets = image_sets(source)
    images: list[ImageRow] = []
    seen, unlisted = set(), []
    for key in source.each(files):
        listed = sets.find(posixpath.splitext(key)[0])
        if sets and listed is None:
            unlisted.append(key)
            continue
        seen.add(listed)
        if image := _image(source, key):
            image.split = sets[listed] if listed else split_of(key)
            images.append(image)
    source.note_images("left out, since no list of ImageSets/Main has them", unlisted, "file")
    bare = sorted(sets.keys() - seen)
    for stem in bare:  # an image without XML, as in a test set, has no objects that are known
        if file := source.find_image(stem, where="ImageSets/Main"):
            images.append(ImageRow(file, "ImageSets/Main", split=sets[stem]))
    source.note_images("listed in ImageSets/Main without an XML, so taken as empty", bare)
    return Annotations(images)


def _image(source: Source, key: str) -> ImageRow | None:
    if (parsed := parse(source, key)) is None:
        return None
    root, lines = parsed
    stem = posixpath.splitext(posixpath.basename(key))[0]
    # The XML's own name decides: files that were renamed together often keep a stale <filename>.
    own = source.images_named(stem, near=key)
    file = own[0] if len(own) == 1 else source.find_image(text(root, "filename") or stem, near=key)
    if file is None:
        return None
    size = image_size(text(root, "size/width"), text(root, "size/height"))
    image = ImageRow(file, key, size=size, layout=source.box_format or "xyxy", source=key)
    unnamed, wrong = "the object has no <name>.", "needs a <bndbox> of four numbers xmin, ymin, xmax, ymax"
    for entry in root.findall("object"):
        source.add_box(image, f"{key}:{lines[entry]}", text(entry, "name"), _corners(entry), unnamed, wrong)
    return image


def _corners(entry: Element):
    box, polygon = entry.find("bndbox"), entry.find("polygon")
    if box is not None:
        return four(lambda side: text(box, side), "xmin ymin xmax ymax")
    if polygon is None or len(polygon) < 4:
        return None
    values = {child.tag: child.text for child in polygon}  # x1, y1, x2, y2, ...
    return bounds([(values.get(f"x{i}"), values.get(f"y{i}")) for i in range(1, len(values) // 2 + 1)])
