"""What a training step asks of a GPU: ceilings on kernels and on waits of the host, counted without one.

The model has the layers of the README's and the batch its images, regions and captions, which decide the counts; only
the widths are small.
"""

import pytest

from misc.training.losses import caption_loss
from scripts.benchmarking.made_up import Sizes, made_up_batch, made_up_model, model_options
from scripts.benchmarking.workloads import REGIONS, WORDS_SEED
from tests.helpers.pretend_device import DEVICE, pretend_device

NARROW = Sizes('--input_encoding_size 64 --ff_size 96 --img_feat_size 48', words=200)


@pytest.fixture(scope='module')
def work():
    """The model and the batch, on the CPU."""
    batch = made_up_batch(REGIONS, NARROW, model_options(NARROW), WORDS_SEED)
    return made_up_model(NARROW, batch).train(), batch


def test_a_cross_entropy_step_launches_few_kernels_and_never_waits(work):
    model, batch = work
    with pretend_device() as counts:
        model.to(DEVICE)
        counts.clear()
        loss = caption_loss(model, batch.pin_memory().to(DEVICE))['loss']
        loss.backward()
        assert not counts.waits, counts.waits
        assert counts.kernels < 4500, counts.by_file()
