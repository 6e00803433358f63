"""Compares this package's tokenizer with the reference PTB tokenizer, on generated captions.

    python benchmarks/tokenizer.py JAR [--captions 20000] [--seed 0]

JAR is `tokenizer/stanford-corenlp-3.4.1.jar` of pycocoevalcap; Java must be installed. The captions are made of what
tokenizers stumble over: punctuation, contractions, abbreviations, numbers, hyphens, accents, quotes, brackets,
addresses, emoji. The status is 1 if the tokens of one differ.

The reference looks into the next line to tell what a period after "vitamin C" or "no" at the end of a caption means.
Here a caption is read on its own; so a line that decides nothing follows each.
"""

import argparse
import random
import subprocess
import sys

from vidcap.evaluation.scores.ptb_tokenizer import ptb_tokenize

PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())  # removed by pycocoevalcap

WORDS = """
a an the man woman men women dog dogs cat person people boy girl child children group camera video ball table
street kitchen stage water food guitar horse is are was were plays playing runs running walks walking talks
talking cooks cooking sings singing dances dancing holds holding in on at to of with and or while then into over
under near up down out red blue green white black big small young old two three several A The Man Woman Two He
She It They This There I You We his her its their him them who which that what very quickly slowly again first
second next end no yes not
""".split()
CONTRACTIONS = """
don't can't won't isn't doesn't didn't aren't he's she's it's that's they're we're I'm I've you'll he'd she'd
let's cannot gonna wanna gotta lemme gimme 'tis 'twas y'all ain't o'clock man's dogs' children's James's
rock'n'roll 'em 'cause ol' ma'am DON'T Can't IT'S shouldn't've there'll who's what're don’t it’s man’s couldn’t
""".split()
ABBREVIATIONS = """
Mr. Mrs. Ms. Dr. St. Jr. Sr. U.S. U.K. U.S.A. a.m. p.m. e.g. i.e. etc. vs. No. no. Inc. Co. Ltd. Ave. Jan. Feb.
Aug. Sept. Oct. Nov. Dec. ft. lb. oz. tbsp. approx. min. fig. Figs. Prof. Sen. Gen. Col. Sgt. Ph.D. D.C. J. T.
a.k.a. N.Y. L.A. Mt. Calif. Tex. Mon. Wed. Fri. Corp. Bros. dept. Rd. Blvd. cont'd
""".split()
NUMBERS = """
1 2 3 10 12 25 100 1000 1,000 5,000,000 3.5 0.5 .5 -3 +4 1st 2nd 3rd 21st 1/2 3/4 ½ ¼ 50% 7:30 12:45pm 3pm
9-11 1990s 1990's '90s 2-3 10-year-old 3D 4K 4x4 #1 $5 $3.50 US$20 £5 €10 555-1234 555-123-4567 12/25/2012
2012-12-25 16:9 1.5x 100m 5'6 20°C 2x 007 0-0 1-0 40th
""".split()
HYPHENATED = """
well-known x-ray T-shirt t-shirt tug-of-war slow-motion close-up black-and-white merry-go-round hip-hop
two-year-old ex-wife self-made mid-air jet-ski e-mail sit-ups push-ups follow-up and/or his/her w/o he/she
pull-up pre- -ish well--known U.S.-based A-B-C co-op non-U.S. anti-war o'clock-ish semi- 2-on-2 Spider-Man x-X
""".split()
ACCENTED = """
café naïve crêpe jalapeño piñata façade über Müller Zürich Éclair déjà Elève São Łódź señor smörgåsbord Beyoncé
Pokémon café ¿qué ¡hola straße Œuvre fiancée's résumé İstanbul český
""".split()
OTHER = """
R&B AT&T Q&A rock&roll &amp; &lt; salt&pepper C++ C# www.site.com http://a.org/b?c=d youtube.com/watch
me@home.org @user #tag clip.mp4 photo.jpg <b> </i> :) :-) :( ;-) :D ^_^ <3 = + * / \\ | ~ ^ _ % & @ a_b a=b x*y
TV OK USA iPhone LOL McDonald's O'Brien O'Neill D'Angelo ™ ® © 😀 ❤ ★ → • 日本 мир end.the start,man hello!what
word;word a:b
""".split()
MARKS = (
    ". |, |! |? |; |: | - | -- |--|-|... |… | – | — |—|'|\"| '|' | \"|\" | (|) | [|] |{|} |/|!!|?!|..|"
    "....|,|.|  |“|” |‘|’ |``|''|*|&| & |`|\t|\u00a0|,,|. . .|***|«|» "
).split("|")
SPECIAL = (CONTRACTIONS, ABBREVIATIONS, NUMBERS, HYPHENATED, ACCENTED, OTHER)


def captions(count: int, seed: int) -> list[str]:
    """Captions of 1 to 14 parts, from quite plain to very odd."""
    generator = random.Random(seed)
    made = []
    for _ in range(count):
        odd_words, odd_marks = generator.choice([(0.1, 0.05), (0.3, 0.15), (0.5, 0.4)])
        text = generator.choice(["", "", "", " ", '"', "(", "'", "- "])
        for _ in range(generator.randint(1, 14)):
            words = generator.choice(SPECIAL) if generator.random() < odd_words else WORDS
            word = generator.choice(words)
            text += generator.choice((str.upper, str.capitalize))(word) if generator.random() < 0.05 else word
            text += generator.choice(MARKS) if generator.random() < odd_marks else " "
        made.append(text.rstrip(" ") + generator.choice(["", "", ".", ".", "!", "?", " .", '"', ")", "...", ",", "'"]))
    return made


def reference_tokens(texts: list[str], jar: str) -> list[list[str]]:
    """As `pycocoevalcap.tokenizer.ptbtokenizer` asks for them."""
    command = ["java", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    command += ["-options", "ptb3Escaping=true", "-encoding", "utf-8"]
    lines = "".join(text.replace("\n", " ") + "\nx\n" for text in texts)
    run = subprocess.run(command, input=lines.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    found = run.stdout.decode().split("\n")[: 2 * len(texts) : 2]
    return [[token for token in line.rstrip().split(" ") if token not in PUNCTUATION | {""}] for line in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jar")
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = captions(options.captions, options.seed)
    expected = reference_tokens(texts, options.jar)
    different = [
        (text, here, there)
        for text, there in zip(texts, expected, strict=True)
        if (here := ptb_tokenize(text)) != there
    ]
    for text, here, there in different[:20]:
        print(f"caption   {text!r}\n  here    {here}\n  expected {there}")
    print(f"{len(different)} of {len(texts)} captions differ (seed {options.seed})")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
