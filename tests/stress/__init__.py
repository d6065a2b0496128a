"""Stress tests, too long for the test suite, which runs a small part of each:

    python -m tests.stress.kill_resume         trainings killed and resumed
    python -m tests.stress.kill_preparation    preparation scripts killed and started again
    python -m tests.stress.fuzz                damaged files of every format
    python -m tests.stress.long_run            a long training that must not accumulate memory or files
    python -m tests.stress.page_5000           a page of 5,000 images
    python -m tests.stress.mutations           small faults in the code, which the tests should notice

Each has --help.  kill_resume uses phases.py, run_checks.py and real_runs.py; kill_preparation uses killing.py and
preparations.py; fuzz uses samples.py, damage.py, readers.py and the readers behind it; mutations uses faults/.
"""
