"""Measure how prompts are read: python -m benchmarks.prompts

Prints, for common nouns that the model was not trained on, how near the nearest trained word is and what the model
decides for "a NOUN", nearest first: the limit `NEAR` in training/reading.py comes from it. Then prints what is read in
40 prompts as new users would write them, and how many of their words are neither drawn nor named.
"""

import argparse
import re

import torch
from torch.nn.functional import normalize

import cli
import config
from ldm.checkpoint import load_model
from painting.foreign_words import translate
from painting.prompts import GRAMMAR, SMALL_WORDS, Lexicon, PromptInterpreter, bare

# as new users would write them
FREE_PROMPTS = """
a tiger in the jungle
spiral in #ff8800 and #003366
love
1234
my grandmother's voice
a city at night in the rain
sunset over the ocean
three red balloons
a dragon breathing fire
blaue Blume auf gelbem Grund
un papillon rouge
una espiral dorada
a portrait of a woman, oil painting
cosmic energy flowing through the universe
Van Gogh starry night
purple rain
a castle on a hill
rainbow
happy birthday
peace and quiet
forest in autumn colors
cherry blossoms in spring
a steampunk machine
the sound of silence
zebra stripes
rebeccapurple and tomato waves
a house with a garden
underwater coral reef
lightning in a stormy sky
neon city lights
golden retriever puppy
4k, highly detailed, masterpiece, a rose
black hole
hearts and stars on pink
Mandala in Orange und Türkis
ocean waves at dawn
a cup of coffee
anger
🦋 butterfly
water lilies by Monet
""".strip().splitlines()

NOUN_LIST = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea kid body information back
parent face others level office door health person art war history party result change morning reason research girl
guy moment air teacher force education foot boy age policy music market sense nation plan college interest death
experience effect class control field development role effort rate heart drug show leader light voice wife police
mind price report decision son view relationship town road arm difference value building action season society tax
director position player record paper space ground form event matter center project phone window skin bed sister dog
cat horse bird fish tiger lion wolf bear rabbit mouse elephant monkey snake frog turtle spider bee ant cow pig sheep
goat chicken duck eagle owl shark whale dolphin octopus dinosaur dragon unicorn tree flower grass leaf rose tulip
lily garden forest jungle river lake ocean sea beach island mountain hill valley desert sky cloud rain snow storm
wind thunder sun moon star planet earth fire smoke ice stone rock sand gold silver iron glass wood metal plastic
cotton silk table chair lamp clock mirror knife fork spoon cup plate bottle box bag key pen pencil computer screen
camera radio television guitar piano violin drum trumpet bell ball doll toy bicycle train plane ship boat bus truck
bridge tower castle church temple palace wall roof floor fence apple banana orange lemon cherry grape strawberry
bread cheese milk egg butter sugar salt coffee tea wine beer pizza cake chocolate soup meat rice shirt dress hat
shoe coat ring crown necklace watch umbrella king queen prince princess soldier doctor nurse farmer artist dancer
singer wizard witch ghost angel devil robot alien monster vampire zombie love hate anger joy fear hope dream sleep
peace silence noise sound song dance poem letter spring summer autumn winter dawn sunset midnight rainbow lightning
volcano earthquake tornado galaxy universe comet rocket satellite
"""
NOUNS = NOUN_LIST.split()


def nearness(interpreter: PromptInterpreter, word: str) -> tuple[float, str]:
    """Return the cosine of the vectors of a word and of the nearest trained word, and that word."""
    encoder, names = interpreter.encoder, interpreter.lexicon.neighbours
    rows = [encoder.index[name] for name in (word, *names)]
    unit = normalize(encoder.word_vectors[rows].float(), dim=1)
    cosine, place = (unit[1:] @ unit[0]).max(dim=0)
    return cosine.item(), names[int(place)]


def unexplained(interpreter: PromptInterpreter, prompt: str) -> list[str]:
    """List the words of a prompt that are neither read nor named as without effect, nor words that say nothing."""
    reading, lexicon = interpreter.read(prompt), interpreter.lexicon
    words = [word for word in re.findall(r"#\w+|\w+", prompt.lower()) if len(word) > 1]
    translations = translate([*map(bare, words)], lexicon.words)[0]
    # each word that is read was left out once, to see what changes
    explained = {*re.findall(r"\w+", reading.text.lower()), *GRAMMAR, *SMALL_WORDS, *lexicon.frame, ""}
    said = " ".join([*reading.shapes, *reading.colours, *reading.no_effect]).lower()
    colours = [name for name in lexicon.colours if name in said]
    return [
        word
        for word in words
        if not (
            word in said or {word, translations.get(bare(word))} & explained or any(name in word for name in colours)
        )
    ]


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    torch.set_grad_enabled(False)
    lexicon = Lexicon.read(config.BUILTIN_MODEL_WEIGHTS.with_suffix(".yaml"))
    assert lexicon is not None
    interpreter = PromptInterpreter(load_model(config.BUILTIN_MODEL_WEIGHTS), lexicon)
    nouns = [noun for noun in NOUNS if noun in interpreter.encoder.index and noun not in lexicon.words]
    rows = sorted(((*nearness(interpreter, noun), noun) for noun in nouns), reverse=True)
    print(f"{len(rows)} nouns, {sum(cosine >= lexicon.near for cosine, *_ in rows)} of them at {lexicon.near} or more")
    for cosine, neighbour, noun in rows:
        reading = interpreter.read(f"a {noun}")
        print(f"{cosine:.2f}  {noun} ~ {neighbour}: {', '.join([*reading.shapes, *reading.colours]) or '-'}")
    print()
    for prompt in FREE_PROMPTS:
        print(f"{prompt}\n    {interpreter.read(prompt).describe()}")
    silent = {prompt: words for prompt in FREE_PROMPTS if (words := unexplained(interpreter, prompt))}
    print(f"\nfollowed, or said what was not: {len(FREE_PROMPTS) - len(silent)} of {len(FREE_PROMPTS)}", silent or "")


if __name__ == "__main__":
    cli.run(main)
