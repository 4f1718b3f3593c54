"""How often a training step waits for a GPU."""

import warnings

import pytest
import torch

from tests.training.test_waiting import MOST_READS, one_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("amp", ["fp32", "fp16"])
def test_step_waits_for_a_gpu_a_fixed_small_number_of_times(amp):
    waits = []
    for layers in (1, 4):
        step = one_step(layers, "cuda", amp)
        step()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing" in str(warning.message) for warning in caught))
    assert waits[0] == waits[1] <= MOST_READS
