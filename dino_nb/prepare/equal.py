"""Which files are the same: the one search for equal images."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from dino_nb.files import sha256

THREADS = 4  # reading, hashing and decoding leave the interpreter's lock


def same_bytes(paths: Sequence[Path], progress: bool = True) -> list[Hashable]:
    """For each path a key that equals another's exactly if the files hold the same bytes.

    Only files of equal length are read.
    """
    sizes = [path.stat().st_size for path in paths]
    lengths = Counter(sizes)
    with ThreadPoolExecutor(THREADS) as pool:
        work = pool.map(lambda path, size: (size, sha256(path) if lengths[size] > 1 else ""), paths, sizes)
        return list(tqdm(work, "comparing", len(paths), unit="image", disable=not progress, leave=False))


def groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """Positions of equal keys, for those that are there more than once."""
    found = defaultdict(list)
    for position, key in enumerate(keys):
        found[key].append(position)
    return [positions for positions in found.values() if len(positions) > 1]
