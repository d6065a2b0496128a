"""What programs set up on the machine that they run on."""

import os
import platform
import subprocess
import sys

import pytest

from tests.helpers import ROOT

# Prints the pages that are mapped while arrays of 40 MB are made and freed, 20 in turn.
CODE = '''
import resource, torch
from misc.machine import pick_device
pick_device('cpu')
for _ in range(5):
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
'''


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc can be told to keep memory')
def test_memory_that_was_freed_is_used_again_unless_the_environment_says_otherwise():
    plain = {name: value for name, value in os.environ.items() if not name.startswith('MALLOC_')}
    pages = [int(subprocess.run([sys.executable, '-c', CODE], cwd=ROOT, env={**plain, **own}, check=True,
                                capture_output=True, text=True).stdout)
             for own in ({}, {'MALLOC_MMAP_THRESHOLD_': '131072'})]
    assert pages[0] < pages[1] / 4
