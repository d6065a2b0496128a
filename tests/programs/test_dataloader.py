"""The worker processes of the data loader end with the process that started them."""

import multiprocessing
import os
import subprocess
import sys

from dataloader import init_worker


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
