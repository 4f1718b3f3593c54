"""Which images look nearly the same, by a perceptual hash: shots of one scene, frames of a video, saved copies."""

import contextlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dino_nb.data.images import opened
from dino_nb.errors import UserError
from dino_nb.prepare.equal import THREADS

_SIDE = 16  # the hash has as many times as many bits: whether a cell of a thumbnail is brighter than its left neighbour
_BANDS = 16  # parts of the hash; images are compared where they agree in one
_SAME = 12  # bits of 256 in which copies may differ
_FRAMES = 40  # bits in which frames of one video may differ that follow each other by their names
_FLAT = 3.0  # grey levels between the cells, on average, below which there is nothing to compare
_MANY = 30  # images of a scene that stay together however small the set is
_NEIGHBOURS = 30  # images of a part of the hash that each is compared with


def groups_of_similar(paths: Sequence[Path], names: Sequence[str], progress: bool = True) -> list[int]:
    """For each image a number, the same for those that look alike.

    Two images are alike if their hashes differ in few bits, or in some more if their names (keys of a source) end in
    numbers that follow each other, as frames of a video do. Where more than a fifth of all look alike, a fixed camera
    took them, and they count as different.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        work = pool.map(_hash, paths)
        hashes = list(
            tqdm(work, "looking for similar ones", len(paths), unit="image", disable=not progress, leave=False)
        )
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
    for part in range(_BANDS):
        alike = defaultdict(list)
        for i, bits in enumerate(hashes):
            if bits is not None:
                alike[bits[part::_BANDS].tobytes()].append(i)
        for members in alike.values():
            for at, i in enumerate(members):
                yield from ((i, j) for j in members[at + 1 : at + 1 + _NEIGHBOURS])


def _in_a_row(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs whose names differ in their last number only, and that follow each other by it."""
    series = defaultdict(list)
    for i, name in enumerate(names):
        if match := re.match(r"(.*?)(\d{1,9})(\D*)$", name):
            series[match[1], match[3]].append((int(match[2]), i))
    for members in series.values():
        ordered = [i for _, i in sorted(members)]
        yield from itertools.pairwise(ordered)
