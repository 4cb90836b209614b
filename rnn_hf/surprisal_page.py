"""A page that colours each word of texts by its surprisal: one file without scripts, which needs no network."""

import math
from collections.abc import Iterable, Iterator
from html import escape

from rnn_hf.scoring import PER_NAT, TextScore, Totals


# One hue of rising strength, so that no eye must tell red from green, over light paper or dark.
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --soft: #5c5c5c; --line: #d5d5d5; --hue: 240 125 0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #171717; --ink: #f2f2f2; --soft: #a8a8a8; --line: #3c3c3c; --hue: 205 85 0; }
}
body { margin: 0 auto; max-width: 50rem; padding: 1.5rem 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.about { color: var(--soft); font-size: .85rem; margin: 0 0 .5rem; }
.legend { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid var(--line); font-size: .85rem;
  padding: .6rem 0; display: flex; flex-wrap: wrap; gap: .4rem 1.5rem; align-items: center; }
.scale { display: flex; }
.scale b { font-weight: normal; padding: 0 .6em; }
.text { font-size: 1.15rem; line-height: 2; margin: 1.2rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.word, .scale b { background: rgb(var(--hue) / calc(var(--s) * 85%)); }
.word { border-radius: .2em; padding: .1em .12em; }
.word:hover { outline: 2px solid var(--ink); }
.unknown { text-decoration: underline dashed 2px; text-underline-offset: .2em; }
.end { font-size: .8em; margin-left: .4em; }
body:has(#numbers:checked) .word::after { content: attr(data-value); font-size: .6em; vertical-align: sub;
  margin-left: .15em; }
"""
STEPS = 5  # of the scale in the legend


def render_page(scores: Iterable[TextScore], title: str, vocab_size: int) -> str:
    """The page as HTML.

    The colour is full at the surprisal of a blind guess, log(vocab_size), so pages of one model compare.

    Args:
        scores: Of the texts to show.
        title: Of the page.
        vocab_size: Of the model.
    """
    totals = Totals()
    scored = list(totals.count(scores))
    most = math.log(vocab_size) * PER_NAT[totals.unit]
    scale = "".join(
        f'<b style="--s:{step / STEPS:.2f}">{most * step / STEPS:.1f}{"+" * (step == STEPS)}</b>'
        for step in range(STEPS + 1)
    )
    sections = "\n".join(_section(number, text, most) for number, text in enumerate(scored, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="about">Surprisal of each token, given all before it: minus the logarithm of its probability, in
{totals.unit}. {most:.1f} {totals.unit} are those of a blind guess among {vocab_size:,}. An unknown word has the
surprisal of all rare words together. {_sums(totals)}</p>
<div class="legend"><span class="scale">{scale}</span><span>{totals.unit}</span>
<span class="unknown">unknown to the model</span>
<label><input type="checkbox" id="numbers"> show the numbers</label></div>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(number: int, scored: TextScore, most: float) -> str:
    totals = Totals()
    list(totals.count([scored]))
    return f'<p class="text">{"".join(_words(scored, most))}</p>\n<p class="about">{number}: {_sums(totals)}</p>'


def _words(scored: TextScore, most: float) -> Iterator[str]:
    """The text with each token marked up, and what stands between them as it is."""
    before = 0
    rows = zip(scored.spans, scored.tokens, scored.surprisals, scored.known, strict=True)
    for (start, end), token, surprisal, is_known in rows:
        # Tokens that are parts of one letter all have its place: the first one shows it.
        piece = scored.text[max(start, before) : end]
        word = piece.strip() or piece or token
        space = piece[: piece.index(word)] if word in piece else ""
        yield escape(scored.text[before:start] + space)
        before = max(before, start + len(space) + len(word) if piece else end)
        names = ["word"] + ["unknown"] * (not is_known) + ["end"] * (start == end)
        value = f"{surprisal:.2f} {scored.unit}" + ", unknown to the model" * (not is_known)
        strength = min(max(surprisal / most, 0.0), 1.0)
        yield (
            f'<span class="{" ".join(names)}" style="--s:{strength:.3f}" title="{value}"'
            f' data-value="{surprisal:.1f}">{escape(word)}</span>'
        )
    yield escape(scored.text[before:])


def _sums(totals: Totals) -> str:
    unknown = f", {totals.unknown:,} unknown" if totals.unknown else ""
    if not totals.tokens:
        return "no token."
    return (
        f"{totals.tokens:,} token{'s' * (totals.tokens > 1)}{unknown}; in all {totals.surprisal:,.2f} {totals.unit}, "
        f"{totals.surprisal / totals.tokens:.2f} a token; perplexity {totals.perplexity:,.2f}."
    )
