"""Which images are the same, byte for byte, and which look nearly so, by a perceptual hash: shots of one scene, frames
of a video, saved copies."""

import contextlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dino_nb.data.images import opened
from dino_nb.errors import UserError
from dino_nb.files import sha256

_SIDE = 16  # the hash has as many times as many bits: whether a cell of a thumbnail is brighter than its left neighbour
_BANDS = 16  # parts of the hash; images are compared where they agree in one
_SAME = 12  # bits of 256 in which copies may differ
_FRAMES = 40  # bits in which frames of one video may differ that follow each other by their names
_FLAT = 3.0  # grey levels between the cells, on average, below which there is nothing to compare
_MANY = 30  # images of a scene that stay together however small the set is
_NEIGHBOURS = 30  # images of a part of the hash that each is compared with


def in_threads(work: Callable[..., Any], items: Sequence[Any], what: str, progress: bool = True) -> list[Any]:
    """``work(item)`` of each of ``items``, with a progress bar: reading, hashing and decoding leave Python's lock."""
    with ThreadPoolExecutor(4) as pool:
        return list(tqdm(pool.map(work, items), what, len(items), unit="image", disable=not progress, leave=False))


def same_bytes(paths: Sequence[Path], progress: bool = True) -> list[Hashable]:
    """For each path a key that equals another's exactly if the files hold the same bytes.

    Only files of equal length are read.
    """
    sizes = {path: path.stat().st_size for path in paths}
    lengths = Counter(sizes.values())

    def key(path: Path) -> Hashable:
        return sizes[path], sha256(path) if lengths[sizes[path]] > 1 else ""

    return in_threads(key, paths, "comparing", progress)


def repeated(keys: Iterable[Hashable]) -> list[list[int]]:
    """Positions of equal keys, for those that are there more than once."""
    found = defaultdict(list)
    for position, key in enumerate(keys):
        found[key].append(position)
    return [positions for positions in found.values() if len(positions) > 1]


def groups_of_similar(paths: Sequence[Path], names: Sequence[str], progress: bool = True) -> list[int]:
    """For each image a number, the same for those that look alike.

    Two images are alike if their hashes differ in few bits, or in some more if their names (keys of a source) end in
    numbers that follow each other, as frames of a video do. Where more than a fifth of all look alike, a fixed camera
    took them, and they count as different.
    """
    hashes = in_threads(_hash, paths, "looking for similar ones", progress)
    parent = list(range(len(paths)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pairs, most in ((_in_one_part(hashes), _SAME), (_in_a_row(names), _FRAMES)):
        for i, j in pairs:
            first, second = hashes[i], hashes[j]
            if first is not None and second is not None and np.count_nonzero(first != second) <= most:
                parent[max(root(i), root(j))] = min(root(i), root(j))
    groups = [root(i) for i in range(len(paths))]
    sizes = Counter(groups)
    return [group if sizes[group] <= max(_MANY, len(paths) // 5) else i for i, group in enumerate(groups)]


def _hash(path: Path) -> np.ndarray | None:
    """256 bits of an image; None if it is flat or cannot be read."""
    with contextlib.suppress(UserError), opened(path) as image:
        image.draft("L", (4 * _SIDE, 4 * _SIDE))  # JPEG decodes small at once
        grey = image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
        steps = np.diff(np.asarray(grey, dtype=np.float32), axis=1)
        return (steps > 0).ravel() if np.abs(steps).mean() >= _FLAT else None
    return None


def _in_one_part(hashes: list[np.ndarray | None]) -> Iterator[tuple[int, int]]:
    """Pairs that agree in a part of the hash: all that differ in fewer bits than it has parts are among them."""
    known = [(i, bits) for i, bits in enumerate(hashes) if bits is not None]
    for part in range(_BANDS):
        for alike in repeated(bits[part::_BANDS].tobytes() for _, bits in known):
            members = [known[position][0] for position in alike]
            for at, i in enumerate(members):
                yield from ((i, j) for j in members[at + 1 : at + 1 + _NEIGHBOURS])


def _in_a_row(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs whose names differ in their last number only, and that follow each other by it."""
    series = defaultdict(list)
    for i, name in enumerate(names):
        if match := re.match(r"(.*?)(\d{1,9})(\D*)$", name):
            series[match[1], match[3]].append((int(match[2]), i))
    for members in series.values():
        yield from itertools.pairwise(i for _, i in sorted(members))
