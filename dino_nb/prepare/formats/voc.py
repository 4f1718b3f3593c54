"""Pascal VOC: an XML a picture, with or without ``ImageSets/Main/{train,val,test}.txt``.

Corners are taken as they stand: VOC's own count pixels from 1, most tools' that write VOC from 0.
"""

import posixpath

from dino_nb.prepare.formats.imagesets import image_sets
from dino_nb.prepare.formats.source import Box, Labels, Picture, bounds, finite, split_of
from dino_nb.prepare.formats.xml_file import parse, root_tag, text


def find(source):
    """Keys of the XML files whose root is ``annotation``."""
    return [key for key in source.ending(".xml") if root_tag(source.head(key)[:4096]) == "annotation"]


def read(source, files, options):
    """`Labels` of all ``files``, with the splits of ``ImageSets``, else of the folders."""
    sets = image_sets(source)
    pictures, seen, unlisted = [], set(), 0
    for key in source.each(files):
        stem = posixpath.splitext(posixpath.basename(key))[0]
        seen.add(stem)
        if sets and stem not in sets:
            unlisted += 1
            continue
        picture = _picture(source, key, stem)
        if picture:
            picture.split = sets[stem] if sets else split_of(key)
            pictures.append(picture)
    if unlisted:
        source.note(f"{unlisted:,} annotation files are in no list of ImageSets/Main and are left out.")
    bare = sorted(set(sets) - seen)
    for stem in bare:  # a picture without XML, as in a test set, has no objects that are known
        file = source.find_image(stem, where="ImageSets/Main")
        if file:
            pictures.append(Picture(file, "ImageSets/Main", split=sets[stem]))
    if bare:
        source.note(f"{len(bare):,} pictures of ImageSets/Main have no XML and are taken as empty: {bare[0]}, ...")
    return Labels(pictures)


def _picture(source, key, stem):
    parsed = parse(source, key)
    if parsed is None:
        return None
    root, lines = parsed
    # The XML's own name decides: files that were renamed together often keep a stale <filename>.
    own = source.images_named(stem, near=key)
    file = own[0] if len(own) == 1 else source.find_image(text(root, "filename") or stem, near=key)
    size = finite((text(root, "size/width"), text(root, "size/height")), 2)
    picture = Picture(file, key, size=tuple(map(int, size)) if size and min(size) > 0 else None)
    for entry in root.findall("object"):
        where = f"{key}:{lines[entry]}"
        name, corners = text(entry, "name"), _corners(entry)
        if not name:
            source.fault(where, "the object has no <name>.")
        elif corners is None:
            source.fault(where, f"the {name!r} needs a <bndbox> of four numbers xmin, ymin, xmax, ymax.")
        else:
            picture.boxes.append(Box(name, *corners, where))
    return picture if file else None


def _corners(entry):
    box = entry.find("bndbox")
    if box is not None:
        return finite([text(box, side) for side in ("xmin", "ymin", "xmax", "ymax")], 4)
    polygon = entry.find("polygon")
    if polygon is None or len(polygon) < 4:
        return None
    values = {child.tag: child.text for child in polygon}  # x1, y1, x2, y2, ...
    points = [finite((values.get(f"x{i}"), values.get(f"y{i}")), 2) for i in range(1, len(values) // 2 + 1)]
    return bounds(points) if all(points) else None
