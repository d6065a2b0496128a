"""Writing whole files: what killed writers leave behind."""

import multiprocessing
import os

from misc.disk.files import replacing


def test_the_next_write_removes_leftovers_of_killed_writers_and_keeps_those_of_living_ones(tmp_path):
    dead = multiprocessing.get_context('fork').Process(target=int)
    dead.start()
    dead.join()
    left = tmp_path / f'a.json.{dead.pid}.part'
    kept = [tmp_path / name for name in (f'a.json.{os.getppid()}.part', f'b.json.{dead.pid}.part', 'a.json.x.part',
                                         f'a.json.{"9" * 40}.party')]
    for path in (left, *kept):
        path.touch()
    with replacing(tmp_path / 'a.json', 'w', durable=False) as file:
        file.write('{}')
    assert left.exists()
    with replacing(tmp_path / 'a.json', 'w') as file:
        file.write('{}')
    assert not left.exists() and all(path.exists() for path in kept)
