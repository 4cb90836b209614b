"""A toy language to translate: each word has another one for it, and their order is turned."""

import random
from pathlib import Path


WORDS = ("dog", "cat", "bird", "red", "small", "two", "sees", "runs", "snow", "tree")
OTHERS = ("hund", "katze", "vogel", "rot", "klein", "zwei", "sieht", "läuft", "schnee", "baum")


def translation_of(text: str) -> str:
    """What a text is in the other language."""
    return " ".join(OTHERS[WORDS.index(word)] for word in reversed(text.split()))


def some_pairs(number: int, seed: int = 0, longest: int = 6) -> list[tuple[str, str]]:
    """Texts of up to `longest` words with their translations."""
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(1, longest))) for _ in range(number)]
    return [(text, translation_of(text)) for text in texts]


def write_pairs(stem: Path, pairs, source: str = "en", target: str = "xx") -> str:
    """Two files of lines that belong together; returns what names both."""
    for language, side in ((source, 0), (target, 1)):
        lines = [pair[side] for pair in pairs]
        stem.with_name(f"{stem.name}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(stem)
