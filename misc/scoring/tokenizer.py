"""The tokens that coco-caption scores, without Java.

coco-caption runs Stanford's PTBTokenizer (the Penn Treebank's conventions) with `-preserveLines
-lowerCase` and then removes a fixed list of punctuation.  `tokenize` does the same in Python.  The
rules below were found by watching the Java program split made-up strings, and the tests hold the
two against each other.

A caption is read from left to right.  Where several rules fit, the one that sees the longest
stretch wins (what it looks ahead at counts), and of equally long ones the first.
"""

import re

# What coco-caption removes.  Brackets survive: its list has them in capitals, and the tokenizer
# has lower-cased them by then.
PUNCTUATION = frozenset(["''", "'", '``', '`', '.', '?', '!', ',', ':', '-', '--', '...', ';'])


def tokenize(caption):
    """The tokens of a caption, lower case, without punctuation, joined by single spaces.

    A telephone number or a mixed fraction ('1 1/2') is one token with a no-break space inside, as
    in the Java program.  Only this caption counts, whereas the Java program, fed with many, peeks
    into the next line in two rare cases: after 'no.' and after a single letter with a full stop.
    """
    return ' '.join(token for token in raw_tokens(one_line(caption)) if token not in PUNCTUATION)


def one_line(caption):
    """`caption` with every kind of line break made a space: one caption, one line."""
    return BREAKS.sub(' ', caption)


def raw_tokens(line):
    """Yield the lower-case tokens of one line, punctuation included.

    Straight quotes, single or double, come out as "'": they are removed later, so which way they
    would point does not matter.
    """
    end = len(line)
    line += '\n\n'  # what some rules look ahead at
    place = 0
    while place < end:
        plain = PLAIN.match(line, place)
        if plain and plain[0] not in JOINED:
            yield plain[0]
            place = plain.end()
            continue
        reach, match, write = 0, None, None
        for pattern, writer in RULES:
            found = pattern.match(line, place)
            if found and found.end() - place > reach:
                reach, match, write = found.end() - place, found, writer
        if match is None:
            place += 1  # a space, or a sign that the Java program throws away
            continue
        place = match.end('token') if 'token' in match.re.groupindex else match.end()
        yield from (token.lower() for token in write(match) if token)


# ---- what a rule makes of its stretch ----

def whole(match):
    """The stretch as one token; spaces inside become no-break spaces, some signs their names."""
    text = match['token'] if 'token' in match.re.groupindex else match[0]
    return [text.translate(SIGNS).replace('&amp;', '&')]


def verbatim(match):
    """The stretch as one token, no sign changed."""
    return [match[0]]


def straight(match):
    """As `whole`, with any apostrophe made the plain one."""
    return [CURLY.sub("'", text).replace('‘', '`') for text in whole(match)]


def face(match):
    """An emoticon, in which round brackets get their names and others do not."""
    return [match[0].replace('(', '-lrb-').replace(')', '-rrb-')]


def pieces(match):
    """Each group of the pattern a token."""
    return match.groups()


def constant(text):
    """Always the same token."""
    return lambda match: [text]


SIGNS = str.maketrans({
    ' ': '\u00a0', '(': '-lrb-', ')': '-rrb-', '[': '-lsb-', ']': '-rsb-', '{': '-lcb-', '}': '-rcb-',
    '\u00ad': None, '½': '1/2', '¼': '1/4', '¾': '3/4', '⅓': '1/3', '⅔': '2/3',
    '£': '#', '€': '$', '¤': '$', '\u20a0': '$', '\x80': '$', '¢': 'cents'})
QUOTES = str.maketrans({**dict.fromkeys('‘‛‹\x91', '`'), **dict.fromkeys('’›\x92', "'"),
                        **dict.fromkeys('“«\x93', '``'), **dict.fromkeys('”»\x94', "''")})
BREAKS = re.compile('[\x00\t\n\x0b\x0c\r\x1c-\x1f\x85\u2028\u2029]')

# ---- the words that the rules know ----

# Abbreviations that may end a sentence, and those that do not (titles before a name, say).
ENDING = """
al co ct ga jr ky md mo rd rt sq sr va vt ala apr aug bhd cos dak dec esq est etc ext feb fla fri inc
ind jan jul jun kan ltd mar mon neb nev nov oct plc pte pty sep seq sys tel thu tue wed wis wyo ariz
assn bldg blvd bros colo conn corp intl kans mich minn mont okla penn ppte ppty ptes ptys sept tenn
tues univ wisc calif pptes pptys thurs
"""
TITLES = """
cf dr ft lt mr ms mt ph st vs wm adj adm adv ave cie col cpl det drs ens gen gov hon jos maj mfg mme
mrs mtg pfc pvt rep rev sen sfc sgt spc ste alex asst atty brig capt cmdr dept elec govs insp invt
mlle msgr natl pres prof reps sens supt assoc attys comdr lieut profs supts treas messrs
"""
STATES = 'Az La Pa Ark Del Ill Ore Tex Mass Miss Wash'  # not in lower case, where they are words
# After a single letter and a full stop these tell that a new sentence began.
STARTERS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More
Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When
While Yet You
"""
BEFORE_NUMBERS = 'ca no op pp art fig nos figs prop'
FILE_TYPES = """
c h x gz pl ps py bat bmp cgi cpp dll doc exe gif htm jar jpg mov mp3 pdf php png ppt sql tar txt wav
xml zip docx html java jpeg
"""
JOINED = frozenset(['cannot', 'gonna', 'gotta', 'lemme', 'gimme', 'wanna'])


def any_of(words):
    """A pattern for any of some words, in any case."""
    return f'(?i:{"|".join(words.split())})'


def case_kept(words):
    """A pattern for any of some words as they are written, or in capitals."""
    return f'(?:{"|".join((words + " " + words.upper()).split())})'


# ---- the rules ----

LETTER = '(?:[^\\W\\d_ªº²³¹¼-¾\u2070-\u218b\u2460-\u24ff]|[\u00ad\u02c2-\u036f])'
ALNUM = f'(?:{LETTER}|\\d)'
WORD = f'{LETTER}{ALNUM}*(?:[.!?]{LETTER}{ALNUM}*)*'
APOSTROPHE = "(?:['’\x92]|&apos;)"
CURLY = re.compile(APOSTROPHE)
TICK = "(?:['’‘‛`\x91\x92]|&apos;)"  # what people type for an apostrophe
HYPHEN = '[-_\u058a\u2010\u2011]'
LINKED = f'(?:{HYPHEN}(?:[dDoOlL]{TICK}{ALNUM})?{ALNUM}+)'
NUMBER = '(?:\\d*(?:[.:,\u066b\u066c]\\d+)+|\\d+)'
ACRONYM = '[A-Za-z](?:\\.[A-Za-z])+'
ABBREVIATION = f'(?:{any_of(ENDING + TITLES)}|{case_kept(STATES)})'
CLITIC = '(?i:[msd]|re|ve|ll)'
SLASHED = '[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}'
SPACE = '[ \u00a0]'
DOMAIN = '(?:[^\\s"`\'<>|.!?(){}$,-_]+\\.)+'  # the range takes in figures and capitals
PATH = '[^\\s"<>|(){}][^\\s"<>|(){}]*[^\\s"<>|.!?(){},-]'

# A word that no rule but the one for words can start at.
PLAIN = re.compile('[a-z]+(?= [a-z]|\n)')

RULES = [(re.compile(pattern), write) for pattern, write in [
    # Contractions.
    (rf'(?i)(can)(not)(?!{ALNUM})', pieces),
    (rf'(?i)(gon|wan)(na)(?!{ALNUM})', pieces),
    (rf'(?i)(got)(ta)(?!{ALNUM})', pieces),
    (rf'(?i)(lem|gim)(me)(?!{ALNUM})', pieces),
    (r"(?i)(?P<token>'t)(?:is|was)", whole),
    (rf'(?P<token>[A-Za-z]+?)[nN]{TICK}[tT]', whole),
    (rf'[nN]{TICK}[tT]', straight),
    (rf'(?P<token>{WORD}){APOSTROPHE}{CLITIC}', whole),
    (rf'[A-HJ-XZn]{TICK}{LETTER}{{2,}}', whole),
    (rf"'{CLITIC}(?![A-Za-z])|(?:[’\x92]|&apos;){CLITIC}", straight),
    (rf'(?i){APOSTROPHE}n{APOSTROPHE}', whole),
    (r"(?i)'n(?=\s)|[’\x92]n", whole),
    (rf'(?i)[ldj]{APOSTROPHE}|(?:dunkin|somethin|ol){APOSTROPHE}|{APOSTROPHE}(?:em|till?|cause)', whole),
    (r"(?i)c'mon|s'mores|" rf'(?:e|o|ne){APOSTROPHE}er|cap{APOSTROPHE}n|li{APOSTROPHE}l', whole),
    (rf'(?P<token>[yY]{APOSTROPHE}){LETTER}', whole),
    (rf'{LETTER}+[aeiouyAEIOUY]{TICK}[aeiouA-Z]{LETTER}*', whole),
    (rf'{APOSTROPHE}(?:[2-9]0[sS]|\d\d(?=\s))', whole),
    (WORD, whole),
    # Abbreviations keep their full stop.
    (rf'(?P<token>(?:{any_of(ENDING)}|{case_kept(STATES)})\.)(?s:..)', whole),
    (rf'{ABBREVIATION}\.', whole),
    (rf'(?P<token>[A-Za-z])\.\s+{case_kept(STARTERS)}\s', whole),
    (r'[A-Za-z]\.|(?i:ph|ed)\.[dD]\.', whole),
    (rf'{ACRONYM}\.', whole),
    (rf'(?P<token>{any_of(BEFORE_NUMBERS)}\.){SPACE}?\d', whole),
    (rf'(?P<token>(?:{WORD}|{ALNUM}+{LINKED}*)\.)[,;:]', whole),
    # Numbers, and what words and numbers are joined to.
    (rf'[-+]?{NUMBER}', whole),
    (rf'(?:[dDoOlL]{TICK}{ALNUM})?{ALNUM}+{LINKED}*', whole),
    (r'[A-Za-z0-9][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)+', whole),
    (rf'{ALNUM}+(?:{HYPHEN}{ALNUM}+)*-(?:[A-Za-z]\.){{2,}}|(?i:non-u\.s)', whole),
    (r'(?i)(?:anti|pro)-', whole),
    (rf'{ALNUM}+(?:\.{ALNUM}+)*\.{any_of(FILE_TYPES)}(?=[ \n.?!,])', whole),
    (r'(?i)[cf]#|c\+\+', whole),
    (r'[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+', whole),
    (rf'{SLASHED}(?:\\?/{SLASHED}){{1,2}}', whole),
    (r'\d{1,2}[-/]\d{1,2}[-/]\d{2,4}', whole),
    (r'(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}', whole),
    (rf'(?:\(\d{{2,3}}\){SPACE}?|(?:\+\+?)?(?:\d{{2,4}}[- \u00a0])?\d{{2,4}}[- \u00a0])'
     rf'\d{{3,4}}[- \u00a0]?\d{{3,5}}', whole),
    (r'(?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}', whole),
    (r'[½¼¾⅓⅔]', whole),
    # Addresses and mark-up.
    (rf'(?i:https?)://{PATH}', verbatim),
    (rf'www\.(?:[^\s"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}(?:/{PATH})?', verbatim),
    (rf'{DOMAIN}(?:com|net|org|edu)(?:/{PATH})?', verbatim),
    (r'<?(?:mailto:)?[A-Za-z0-9][^\s"<>|(){}@]*@(?:[^\s"<>|(){}.]+\.)*[^\s"<>|(){}.]+>?', verbatim),
    (rf'@[A-Za-z_][A-Za-z_0-9]*|#{LETTER}+', whole),
    (r'</?[A-Za-z!?][A-Za-z0-9:._-]*(?:[ /][^<>]*)?>', whole),
    # Signs.
    (r'&(?:amp|lt|gt);', lambda match: [{'a': '&', 'l': '<', 'g': '>'}[match[0][1]]]),
    (r'&(?:quot|nbsp|[mn]dash);', constant("'")),
    (r'&#\d+;', whole),
    (r'[A-Z]*\$', whole),
    (r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]](?![A-Za-z0-9])", face),
    (r"[-^x=~<>']_[-^x=~<>']", whole),
    (r'[?!]+', whole),
    (r'\.{3,5}|…|\.(?: \.){2,}', constant('...')),
    (r'-{5,}|-', whole),
    (r'-{2,4}|[–—―\x96\x97]', constant('--')),
    (r'<<|>>|#+|\*+|(?:\\\*){1,3}|@+|_+', whole),
    (r"''|[\"']", constant("'")),
    (r'[`“”‘’‛«»‹›\x91-\x94]{1,2}', lambda match: [match[0].translate(QUOTES)]),
    (r'[!-/:-@\[-`{-~¡-¬®-¿×÷\u2016\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2070'
     r'\u2074-\u207e\u2080-\u208e\u20a0\u20a4\u20ac\u2100-\u214f\u2155-\u215e\u2190-\u2bff'
     r'\u3001\u3002\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6]',
     whole),
]]
