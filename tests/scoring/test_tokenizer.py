"""The Python tokenizer equals the Java one that coco-caption runs."""

import json
import random

import pytest

from misc.scoring import java, metrics
from misc.scoring.tokenizer import raw_tokens, tokenize

# Captions and the tokens that the Java program gives for each by itself.
KNOWN = [
    ("A man's dog isn't here; it's John's, don't they know? Can't, won't, ain't.",
     "a man 's dog is n't here it 's john 's do n't they know ca n't wo n't ai n't"),
    ("I'm sure you'll see we've got what they'd like, y'all",
     "i 'm sure you 'll see we 've got what they 'd like y' all"),
    ('A cat cannot sit, gonna gotta wanna gimme lemme go',
     'a cat can not sit gon na got ta wan na gim me lem me go'),
    ("'Tis the dogs' bowl and 'twas James' hat",
     "'t is the dogs bowl and 't was james hat"),
    ('A don’t-walk sign that doesn’t work, the dog’s leash',
     "a do n't walk sign that does n't work the dog 's leash"),
    ("Rock 'n' roll at six o'clock on O'Reilly's jack-o'-lantern",
     "rock 'n' roll at six o'clock on o'reilly 's jack-o lantern"),
    ('A black-and-white t-shirt -- well-lit - on a 3-year-old',
     'a black-and-white t-shirt well-lit on a 3-year-old'),
    ('An anti-theft device, an anti- theft device, a semi-truck',
     'an anti-theft device an anti- theft device a semi-truck'),
    ('The dog... the cat.... and . . . the bird… end..',
     'the dog the cat and the bird end'),
    ('What?! No way!! Really??? Stop!',
     'what ?! no way !! really ??? stop'),
    ('"Quoted" \'single\' ``old style\'\' “curly” ‘single’ «guillemets»',
     'quoted single old style curly single guillemets'),
    ('“‘Nested’” quotes and "\'nested\'" ones',
     "``` nested ''' quotes and nested ones"),
    ('(a man) [a dog] {a cat} <b>bold</b> 3 < 4 > 2',
     '-lrb- a man -rrb- -lsb- a dog -rsb- -lcb- a cat -rcb- <b> bold </b> 3 < 4 > 2'),
    ('A $5 bill, $1,000.50, £20, €30, 5¢, US$40 and ¥50',
     'a $ 5 bill $ 1,000.50 # 20 $ 30 5 cents us$ 40 and ¥ 50'),
    ('It costs 10% of 1,000 or 1,000,000 or 3.5 or .5',
     'it costs 10 % of 1,000 or 1,000,000 or 3.5 or .5'),
    ('1/2 a pizza, 1 1/2 pizzas, ½ cup, 2 ¾ cups, 24/7, 9/11',
     '1/2 a pizza 1\xa01/2 pizzas 1/2 cup 2 3/4 cups 24/7 9/11'),
    ('On 12/25/2014 at 10:30 a.m., 10:30am, 10 p.m. or 5pm.',
     'on 12/25/2014 at 10:30 a.m. 10:30 am 10 p.m. or 5pm'),
    ("Born in 1970s, the '80s, 90's, on 10-10-2014",
     "born in 1970s the '80s 90 's on 10-10-2014"),
    ('Call 555-1234, 555-123-4567, (555) 123-4567 or 1-800-555-1234',
     'call 555-1234 555-123-4567 -lrb-555-rrb-\xa0123-4567 or 1-800-555-1234'),
    ('Visit http://www.example.com/a?b=c or www.example.com, example.com.',
     'visit http://www.example.com/a?b=c or www.example.com example.com'),
    ('Write to foo.bar@example.com or @user about #hashtag and #1',
     'write to foo.bar@example.com or @user about #hashtag and # 1'),
    ("AT&T, B&W, M&M's, salt & pepper, R&B, black&white &amp; more",
     "at&t b&w m&m 's salt & pepper r&b black & white & more"),
    ("Mr. Smith, Mrs. Jones and Dr. No at St. Mark's Blvd. near Mt. Rushmore",
     "mr. smith mrs. jones and dr. no at st. mark 's blvd. near mt. rushmore"),
    ('The U.S. flag in Washington, D.C. and a U.S.-made T.V. on TV.',
     'the u.s. flag in washington d.c. and a u.s.-made t.v. on tv'),
    ('Jan. 5, no. 5, fig. 3, No. There is no. The end.',
     'jan. 5 no. 5 fig. 3 no there is no the end'),
    ('etc. e.g. this, i.e. that, vs. those, Inc. and Co.',
     'etc. e.g. this i.e. that vs. those inc. and co.'),
    ('Jr. is here. Group a. The other group b. dogs',
     'jr. is here group a the other group b. dogs'),
    ('A man and/or woman w/ a red/white/blue flag w/o a/c',
     'a man and/or woman w / a red/white/blue flag w/o a/c'),
    ('The man is 6\'2" tall and 12\' away, a 4\' x 6\' rug, 4x6, 5ft.',
     'the man is 6 2 tall and 12 away a 4 x 6 rug 4x6 5ft'),
    ('A snow-covered_roof with under_scores _ and __ lines',
     'a snow-covered_roof with under_scores _ and __ lines'),
    ('A+ grade, C++, C#, 1+1=2, a*b, ***, ~5, 5°, x^2, a|b, a\\b',
     'a + grade c++ c# 1 +1 = 2 a * b *** ~ 5 5 ° x ^ 2 a | b a \\ b'),
    (':) :( ;-) :-D :P =) smile :p',
     ':-rrb- :-lrb- ;--rrb- :-d :p =-rrb- smile :p'),
    ('A café, naïve jalapeño, Zürich, 日本 and emoji 😀 here',
     'a café naïve jalapeño zürich 日本 and emoji here'),
    ('one,two;three:four!five?six.seven',
     'one two three four!five?six.seven'),
    ('Trailing punctuation , spaces .  And   more  !',
     'trailing punctuation spaces and more'),
    ('Hyphen – en dash — em dash ― bar \u2010 hyphen \u2011 no-break',
     'hyphen en dash em dash bar hyphen no-break'),
    ('A sign that says "STOP.", one that says \'GO!\'.',
     'a sign that says stop one that says go'),
    ('A ... b .. c . d , e ; f : g - h -- i --- j ----- k',
     'a b c d e f g h i j ----- k'),
    ('4th st. and 42nd Street, the 1st, 2nd-floor window',
     '4th st. and 42nd street the 1st 2nd-floor window'),
    ('The 50-50 5-5.5 5.5-6 -5 +5 7up 747-400 F-16s',
     'the 50-50 5-5 .5 5.5-6 -5 +5 7up 747-400 f-16s'),
    ("it's UNK and UNK's UNK.",
     "it 's unk and unk 's unk"),
    ('',
     ''),
    ('.',
     ''),
    ('?!',
     '?!'),
    ('a',
     'a'),
    ("A large 18-wheeler's cab; the cab's 2.",
     "a large 18-wheeler 's cab the cab 's 2"),
    ("C'mon, li'l s'mores, ma'am: cap'n e'er ne'er o'er",
     "c'mon li'l s'mores ma'am cap'n e'er ne'er o'er"),
    ('Thank you ! ! ! & goodbye <3',
     'thank you & goodbye < 3'),
    ('a soft\xadhyphen, a no break space, a tab\tand ™ ® ©',
     'a softhyphen a no break space a tab and ™ ® ©'),
    ('image.jpg readme.txt index.html file.5 v1.2.3',
     'image.jpg readme.txt index.html file .5 v1 .2.3'),
    ('Ph.D. M.D. B.A. J.R.R. Tolkien p.m.',
     'ph.d. m.d. b.a. j.r.r. tolkien p.m.'),
    ('100% cotton #5 * star - dash = equals @ at',
     '100 % cotton # 5 * star dash = equals @ at'),
    ("They've 'em 'til 'cause somethin' goin' on",
     "they 've 'em 'til 'cause somethin' goin on"),
    ('e-mail x-ray co-worker X-mas non-U.S. mid-1990s',
     'e-mail x-ray co-worker x-mas non-u.s. mid-1990s'),
    ('x || y ||| z',
     'x | | y | | | z'),
]

# Pieces from which nonsense captions are joined at random, with and without spaces.
PIECES = [
    'a', 'the', 'The', 'man', 'dog', "dog's", "dogs'", "isn't", "can't", 'cannot', 'gonna', "it's", "they're",
    "I'm", "he'd", "we've", "o'clock", 'U.S.', 'T.V.', 'tv', 'st.', 'St.', 'Mr.', 'no.', 'Jan.', 'etc.', 'p.m.',
    'a.m.', 'AT&T', 'and/or', 'black-and-white', 't-shirt', 'well-lit', 'w/', '1', '12', '100', '1,000', '2.5',
    '1/2', '10:30', '1970s', "'80s", "5'10", '1st', '42nd', '4x4', '5ft', '$5', '10%', '#1', '.', ',', ';', ':',
    '!', '?', '-', '--', '...', "'", '"', '(', ')', '[', ']', '/', '&', '+', '=', '*', '_', '“', '”', '‘', '’',
    '–', '—', '…', 'é', '½', '£']


def glued(count):
    """`count` nonsense captions from a fixed seed."""
    draw = random.Random(1)
    return [''.join(draw.choice(PIECES) + draw.choice(['', ' ', ' ']) for _ in range(draw.randint(1, 6)))
            for _ in range(count)]


@pytest.fixture
def with_java():
    if not java.is_installed():
        pytest.skip('there is no Java to compare with')


@pytest.mark.parametrize('caption, tokens', KNOWN)
def test_tricky_captions_split_as_the_java_program_splits_them(caption, tokens):
    assert tokenize(caption) == tokens


def test_the_java_program_splits_the_tricky_captions_as_noted(with_java):
    # Between two captions stands a plain line, because the Java program looks at the next line in rare cases.
    lines = [line for caption, _ in KNOWN for line in (caption, 'and')]
    assert metrics.ptb_tokens(lines)[::2] == [tokens for _, tokens in KNOWN]


def test_every_caption_of_minicoco_splits_as_in_java(with_java, minicoco):
    images = json.loads((minicoco / 'dataset_coco.json').read_text())['images']
    captions = [sentence['raw'] for image in images for sentence in image['sentences']]
    assert len(captions) == 495
    assert metrics.ptb_tokens(captions) == [tokenize(caption) for caption in captions]


def test_nonsense_splits_as_in_java(with_java):
    captions = glued(3000)
    lines = [line for caption in captions for line in (caption, 'and')]
    expected = metrics.ptb_tokens(lines)[::2]
    wrong = [(caption, ours, theirs) for caption, theirs in zip(captions, expected)
             if (ours := tokenize(caption)) != theirs]
    assert not wrong


def test_a_caption_stays_one_line():
    assert tokenize('a dog\nand\r\na\u2028cat\x85 sit\tdown\x0c') == 'a dog and a cat sit down'


def test_punctuation_is_a_token_before_it_is_removed():
    assert list(raw_tokens('A dog, "big".')) == ['a', 'dog', ',', "'", 'big', "'", '.']


def test_time_grows_in_proportion_to_the_length_of_a_caption():
    assert tokenize('dog@' * 2000 + '. ' + "'" * 5000 + '-' * 5000 + '1 ' * 5000)
