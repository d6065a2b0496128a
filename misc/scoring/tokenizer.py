"""The tokens that coco-caption scores, without Java.

coco-caption runs Stanford's PTBTokenizer (the conventions of the Penn Treebank) with `-preserveLines -lowerCase` and
then removes a fixed list of punctuation.  `tokenize` does the same in Python.  The rules below
were found by observing how the Java program splits made-up strings; the tests compare the two.

A caption is read from left to right.  Of the rules that match at a place the one with the longest match wins
(lookahead included), and among equally long ones the first.
"""

import re
from collections.abc import Callable, Iterator, Sequence

# What coco-caption removes.  Brackets survive: its list has them in capitals, but the tokenizer lower-cases them.
PUNCTUATION = frozenset(["''", "'", '``', '`', '.', '?', '!', ',', ':', '-', '--', '...', ';'])


def tokenize(caption: str) -> str:
    """The tokens of a caption, lower case, without punctuation, joined by single spaces.

    A telephone number or a mixed fraction ('1 1/2') is one token with a no-break space inside, as in the Java
    program.  Each caption is tokenized by itself, whereas the Java program, given many, looks at the next line in
    two rare cases: after 'no.' and after a single letter with a full stop.
    """
    return ' '.join(token for token in raw_tokens(one_line(caption)) if token not in PUNCTUATION)


def split_at_spaces(caption: str) -> str:
    """The words of a caption that is split into words already, joined by single spaces: lower case, without the same
    punctuation.  For languages that `tokenize` does not know."""
    return ' '.join(word for word in caption.lower().split() if word not in PUNCTUATION)


def one_line(caption: str) -> str:
    """`caption` with a space in place of every kind of line break."""
    return BREAKS.sub(' ', caption)


def raw_tokens(line: str) -> Iterator[str]:
    """Yield the lower-case tokens of one line, punctuation included.

    Straight quotes, single or double, come out as "'": they are removed later, so their direction does not matter.
    """
    end = len(line)
    line += '\n\n'  # for rules that look ahead
    place = 0
    while place < end:
        plain = PLAIN.match(line, place)
        if plain and plain[0] not in JOINED:
            yield plain[0]
            place = plain.end()
            continue
        longest = place
        for pattern, writer in RULES:
            found = pattern.match(line, place)
            if found and found.end() > longest:
                longest, match, write = found.end(), found, writer
        if longest == place:
            place += 1  # a space, or a character that the Java program drops
            continue
        place = match.end('token') if 'token' in match.re.groupindex else match.end()
        yield from (token.lower() for token in write(match) if token)


# ---- what a rule makes of its match: a list of tokens ----

Write = Callable[[re.Match[str]], Sequence[str]]


def whole(match: re.Match[str]) -> Sequence[str]:
    """The match as one token; spaces inside become no-break spaces, some characters their names."""
    text = match['token'] if 'token' in match.re.groupindex else match[0]
    return [text.translate(NAMED_CHARACTERS).replace('&amp;', '&')]


def verbatim(match: re.Match[str]) -> Sequence[str]:
    """The match as one token, unchanged."""
    return [match[0]]


def straight(match: re.Match[str]) -> Sequence[str]:
    """As `whole`, with every apostrophe straight."""
    return [CURLY.sub("'", text).replace('‘', '`') for text in whole(match)]


def face(match: re.Match[str]) -> Sequence[str]:
    """An emoticon, in which only round brackets become their names."""
    return [match[0].replace('(', '-lrb-').replace(')', '-rrb-')]


def pieces(match: re.Match[str]) -> Sequence[str]:
    """Each group of the pattern as a token."""
    return match.groups()


def constant(text: str) -> Write:
    """Always the same token."""
    return lambda match: [text]


NAMED_CHARACTERS = str.maketrans({
    ' ': '\u00a0', '(': '-lrb-', ')': '-rrb-', '[': '-lsb-', ']': '-rsb-', '{': '-lcb-', '}': '-rcb-',
    '\u00ad': None, '½': '1/2', '¼': '1/4', '¾': '3/4', '⅓': '1/3', '⅔': '2/3',
    '£': '#', '€': '$', '¤': '$', '\u20a0': '$', '\x80': '$', '¢': 'cents'})
QUOTES = str.maketrans({**dict.fromkeys('‘‛‹\x91', '`'), **dict.fromkeys('’›\x92', "'"),
                        **dict.fromkeys('“«\x93', '``'), **dict.fromkeys('”»\x94', "''")})
BREAKS = re.compile('[\x00\t\n\x0b\x0c\r\x1c-\x1f\x85\u2028\u2029]')

# ---- the words in the rules ----

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
# After a single letter and a full stop, these words begin a new sentence.
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


def any_of(words: str) -> str:
    """A pattern for any of the words, in any case."""
    return f'(?i:{"|".join(words.split())})'


def case_kept(words: str) -> str:
    """A pattern for any of the words as written, or in capitals."""
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
DOMAIN = '(?:[^\\s"`\'<>|.!?(){}$,-_]+\\.)+'  # the range ,-_ includes digits and capitals
PATH = '[^\\s"<>|(){}][^\\s"<>|(){}]*[^\\s"<>|.!?(){},-]'

# A lower-case word before another one or at the end, as most are.  No rule but that for words matches there.
PLAIN = re.compile('[a-z]+(?= [a-z]|\n)')

RULES: list[tuple[re.Pattern[str], Write]] = [(re.compile(pattern), write) for pattern, write in [
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
    # Addresses and markup.
    (rf'(?i:https?)://{PATH}', verbatim),
    (rf'www\.(?:[^\s"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}(?:/{PATH})?', verbatim),
    (rf'{DOMAIN}(?:com|net|org|edu)(?:/{PATH})?', verbatim),
    (r'<?(?:mailto:)?[A-Za-z0-9][^\s"<>|(){}@]*@(?:[^\s"<>|(){}.]+\.)*[^\s"<>|(){}.]+>?', verbatim),
    (rf'@[A-Za-z_][A-Za-z_0-9]*|#{LETTER}+', whole),
    (r'</?[A-Za-z!?][A-Za-z0-9:._-]*(?:[ /][^<>]*)?>', whole),
    # Punctuation and symbols.
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
