"""Many complaints of a kind are one line with a count and examples, few are named one by one."""

import pytest

from misc.prepare.broken import LISTED, SHOWN, Broken, kind_of

ALIKE = [
    ('/a/b/1.jpg: there is no such file', 'pictures/my dog 2.jpg: there is no such file'),
    ("d.json: images[3]: imgid is 'img_3', not an image id", "d.json: images[14]: imgid is 'x y', not an image id"),
    ('a.tsv: image 4: features take 400 bytes, not 3 x 2048 x 4',
     'b.tsv: image 5: features take 8 bytes, not 1 x 2 x 4'),
    ('box/3.npy cannot be read (No data left in file); take another copy of it',
     'box/999.npy cannot be read (No data left in file); take another copy of it'),
    ('a beach.jpg: not a readable image', 'snow.jpg: not a readable image')]


@pytest.mark.parametrize('one, other', ALIKE)
def test_complaints_of_the_same_are_of_one_kind(one, other):
    assert kind_of(one) == kind_of(other)
    others = [message for pair in ALIKE for message in pair if message not in (one, other)]
    assert kind_of(one) not in map(kind_of, others)


def test_a_thousand_complaints_of_a_kind_take_one_line_and_a_file_has_all(capsys, tmp_path):
    broken, path = Broken(), tmp_path / 'photos of mine_broken.txt'
    for number in range(1000):
        broken.add(f'pictures/{number}.jpg: there is no such file')
        if number < 4:
            broken.add(f'image {number} has no sentences')
    said = capsys.readouterr().err.splitlines()
    assert len(said) == SHOWN + 1 + 4 and said[0] == 'broken: pictures/0.jpg: there is no such file'
    assert broken.finish('add them', str(path)) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        '1004 broken; the others are written:',
        '  1000 like these: pictures/0.jpg: there is no such file; pictures/1.jpg: there is no such file; '
        'pictures/2.jpg: there is no such file ...',
        *(f'  image {number} has no sentences' for number in range(4)),
        f'all of them are listed in {path}', 'add them']
    assert path.read_text().splitlines() == broken.messages


def test_a_few_complaints_are_listed_one_by_one_and_none_is_success(capsys, tmp_path):
    broken = Broken()
    assert broken.finish('', str(tmp_path / 'list')) == 0 and capsys.readouterr().err == ''
    for number in range(LISTED):
        broken.add(f'image {number} has no sentences')
    broken.finish('add them', str(tmp_path / 'list'))
    listed = capsys.readouterr().err.split('the others are written:\n')[1].splitlines()
    assert listed == [*(f'  {message}' for message in broken.messages), 'add them']
    assert not (tmp_path / 'list').exists()
