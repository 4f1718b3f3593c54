"""The native op once for all tests of this room, in a cache that is kept between runs."""

import pytest

from dino_nb import ops


@pytest.fixture(scope="session")
def native():
    """The public module with the native CPU op loaded."""
    from dino_nb.ops import native as library

    if not library.is_native("cpu"):
        pytest.skip(f"no native op here: {ops.status()['cpu']}")
    return ops
