"""Batches in parts; the worker processes of the data loader end with the process that started them."""

import multiprocessing
import os
import subprocess
import sys

import torch

from dataloader import ARRAYS, Batch, Order, init_worker
from tests.helpers.models import batch_with_captions


def test_a_batch_in_parts_is_the_whole_batch_in_the_same_order():
    batch = batch_with_captions()
    batch.epoch, batch.position = 3, 8
    for count, sizes in ((1, [3]), (2, [1, 2]), (3, [1, 1, 1]), (9, [1, 1, 1])):
        parts = batch.split(count)
        assert [len(part) for part in parts] == sizes
        assert {(part.epoch, part.position) for part in parts} == {(3, 8)}
        for name in ('image_ids', 'images', 'counts', 'lengths'):
            assert sum((getattr(part, name) for part in parts), []) == getattr(batch, name)
        for name in ARRAYS:
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_a_loader_worker_exits_if_its_parent_died_before_it_started():
    context = multiprocessing.get_context('fork')
    for parent, status in ((os.getpid(), 0), (os.getppid(), 1)):
        process = context.Process(target=init_worker, args=(parent, 0))
        process.start()
        process.join(60)
        assert process.exitcode == status


def test_a_failing_command_kills_its_loader_workers():
    code = ("import dataloader, sys; sys.kept = iter(dataloader.make_loader(list(range(9)), range(9), 2)); "
            "next(sys.kept); sys.exit(3)")
    assert subprocess.run([sys.executable, '-c', code], timeout=60, check=False).returncode == 3


def test_the_order_of_an_epoch_depends_on_the_seed_and_the_epoch_unless_it_was_saved():
    rows = range(30)
    first = Order(rows, 4, seed=1)
    assert first.order.tolist() != Order(rows, 4, seed=2).order.tolist()
    resumed = Order(rows, 4, 1, {'epoch': 3, 'position': 0})
    assert resumed.order.tolist() == first.order_of(3).tolist() != first.order.tolist()
    saved = list(range(29, -1, -1))
    resumed = Order(rows, 4, 1, {'epoch': 3, 'position': 8, 'order': saved})
    assert resumed.order_of(3).tolist() == saved and next(iter(resumed))[0] == saved[8:12]
    assert resumed.order_of(4).tolist() == first.order_of(4).tolist()


def test_every_word_counts_the_first_of_the_vocabulary_too():
    captions = torch.tensor([[[1, 1, 0], [1, 2, 3]]])
    assert Batch([7], [0], [1], None, None, None, captions).lengths == [2, 3]
