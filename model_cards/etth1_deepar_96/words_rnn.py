"""Words from their pieces and their characters: what a word-level network over a WordPiece vocabulary reads.

Frequent words are one piece of the vocabulary and have an embedding of their own; every word is also read character by
character, whatever pieces spell it, so that one that was never seen is told by its spelling.

Shapes in comments: B batch, T time, V vocabulary, N pieces, U spellings, L characters of the longest.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_rnn import RNNConfig
from .heads_rnn import pool
from .layers_rnn import RNNLayer


# A row of the embedding that stands for no word of its own, and the mark of a piece that continues a word.
NO_ROW, CONTINUES = 0, -1
# Spellings are run in groups of like length, the shortest half first, as most words are short and some are very long.
SHARES = (0.5, 0.85, 1.0)


@dataclass
class Spelling:
    """How each type of a vocabulary is spelled, and which row of the word embedding it has.

    Attributes:
        rows: `(V,)`, the row of a whole word, 0 for none, -1 for a piece that continues a word. Words that differ in
            case alone share a row: their characters tell them apart.
        ends: `(V,)`, where in `characters` the spelling of a type ends; it begins where that of the type before ends.
        characters: Ids of characters, one spelling after the other.
        counts: Occurrences of the words of each row in the training text; zeros where these are not known.

    Example:

    >>> from rnn_hf.data.wordpiece import build_wordpiece
    >>> tokenizer = build_wordpiece([["The", "the", "cat", "cat"]], pieces="characters")
    >>> spelling = Spelling.of(tokenizer)
    >>> spelling.sizes["num_characters"]  # T a c e h t, and one for all others
    7
    >>> rows = dict(zip(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), spelling.rows.tolist()))
    >>> rows["cat"] > 0, rows["##a"], rows["T"] == rows["t"]
    (True, -1, True)
    """

    rows: Tensor
    ends: Tensor
    characters: Tensor
    counts: Tensor

    @classmethod
    def of(cls, tokenizer: Any, counts: Mapping[str, int] | None = None) -> "Spelling":
        """From a WordPiece tokenizer, such as `rnn_hf.data.wordpiece.build_wordpiece` makes.

        Args:
            tokenizer: Its vocabulary has words and pieces, of which those that continue a word have its prefix.
            counts: Occurrences of words in the training text. With these, a word of the vocabulary that occurs in no
                case has no row, as nothing would be learned for it.

        Raises:
            ValueError: The tokenizer is not of that kind.
        """
        model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
        prefix = getattr(model, "continuing_subword_prefix", None)
        if not prefix:
            raise ValueError("`tokenizer` must be a WordPiece tokenizer, whose pieces say which continue a word")
        frequencies: Counter[str] = Counter()
        for word, count in (counts or {}).items():
            frequencies[word.lower()] += count
        rows: list[int] = []
        spellings: list[str] = []
        row_of_word: dict[str, int] = {}
        vocabulary = tokenizer.get_vocab()
        for token in sorted(vocabulary, key=vocabulary.__getitem__):
            word = token.lower()
            if token in tokenizer.all_special_tokens:
                rows.append(NO_ROW)
                spellings.append("")
            elif token.startswith(prefix) and token != prefix:
                rows.append(CONTINUES)
                spellings.append(token.removeprefix(prefix))
            else:
                has_row = counts is None or word in frequencies
                rows.append(row_of_word.setdefault(word, len(row_of_word) + 1) if has_row else NO_ROW)
                spellings.append(token)
        ids = {character: index for index, character in enumerate(sorted(set("".join(spellings))))}
        return cls(
            rows=torch.tensor(rows, dtype=torch.int32),
            ends=torch.tensor([len(text) for text in spellings]).cumsum(0).to(torch.int32),
            characters=torch.tensor([ids[character] for text in spellings for character in text], dtype=torch.int16),
            counts=torch.tensor([0, *(frequencies[word] for word in row_of_word)], dtype=torch.int32),
        )

    @property
    def sizes(self) -> dict[str, int]:
        """The fields of [`RNNConfig`] that shape the buffers of a [`WordEncoder`]."""
        return {
            "vocab_size": len(self.rows),
            "num_word_rows": len(self.counts),
            "num_characters": int(self.characters.max()) + 1,
            "num_spelled_characters": len(self.characters),
        }


class WordEncoder(nn.Module):
    """From pieces to words: where each begins, its row of the word embedding, and what its characters say.

    A bidirectional layer over the characters of a word gives its vector, the last state of either direction.
    """

    rows: Tensor
    ends: Tensor
    characters: Tensor
    counts: Tensor

    def __init__(self, config: RNNConfig):
        super().__init__()
        self.embed_characters = nn.Embedding(config.num_characters, config.character_embedding_size)
        reader = RNNConfig(
            vocab_size=config.num_characters,
            embedding_size=config.character_embedding_size,
            hidden_size=config.character_hidden_size,
            num_hidden_layers=1,
            cell_type=config.cell_type,
            hidden_act=config.hidden_act,
            bidirectional=True,
            recurrent_dropout=config.recurrent_dropout,
        )
        self.layer = RNNLayer(reader, 0)
        self.rare_word_dropout, self.max_word_characters = config.rare_word_dropout, config.max_word_characters
        sizes = {
            "rows": (config.vocab_size, torch.int32),
            "ends": (config.vocab_size, torch.int32),
            "characters": (config.num_spelled_characters, torch.int16),
            "counts": (config.num_word_rows, torch.int32),
        }
        for name, (size, dtype) in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=dtype))

    @torch.no_grad()
    def clear(self) -> None:
        """Forget the spelling of the vocabulary, except for what was loaded."""
        for buffer in self.buffers(recurse=False):
            if not getattr(buffer, "_is_hf_initialized", False):
                buffer.zero_()

    def set_spelling(self, spelling: Spelling) -> None:
        """Take over how the vocabulary is spelled.

        Raises:
            ValueError: The configuration was made for another vocabulary, or `rare_word_dropout` lacks counts.
        """
        if self.rare_word_dropout and not spelling.counts.any():
            raise ValueError("`rare_word_dropout` needs to know how often words occur: Spelling.of(tokenizer, counts)")
        for name, buffer in self.named_buffers(recurse=False):
            values = getattr(spelling, name)
            if values.shape != buffer.shape:
                raise ValueError(
                    f"`spelling` has {len(values)} {name}, the configuration {len(buffer)}: make it with "
                    "RNNConfig(**spelling.sizes, ...)"
                )
            buffer.copy_(values)

    def first_pieces(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Where words begin, `(B, T)`: at real pieces that continue none, and at the first real one of a row."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return mask & ((self.rows[ids] != CONTINUES) | (mask.cumsum(dim=1) == 1))

    def forward(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Read words.

        Args:
            ids: Of pieces, `(B, T)`.
            mask: `(B, T)`, true at real ones; `None` where all are.

        Returns:
            For each piece its word's row of the embedding, 0 for none, `(B, T)`, and what the characters say,
            `(B, T, 2 character_hidden_size)`; and where words begin, `(B, T)`. At padding rows are 0 and vectors are
            finite.

        Raises:
            ValueError: The spelling of the vocabulary was never set.
        """
        if not self.ends.any():
            raise ValueError("no word has a spelling: call `set_spelling` with the Spelling of the tokenizer")
        firsts = self.first_pieces(ids, mask)
        is_real = torch.ones_like(firsts) if mask is None else mask
        pieces, words = ids[is_real], firsts[is_real].cumsum(0) - 1  # of each real piece, the number of its word
        is_whole = words.bincount()[words] == 1
        # Whole words are read once each, however often they occur; what is put together from pieces, each time.
        whole, slots_of_whole = pieces[is_whole].unique(return_inverse=True)
        spelled, slots_of_spelled = words[~is_whole].unique_consecutive(return_inverse=True)
        slots = torch.empty_like(words)  # of each real piece, the place of its word among the spellings
        slots[is_whole], slots[~is_whole] = slots_of_whole, len(whole) + slots_of_spelled
        every_piece = torch.cat([whole, pieces[~is_whole]])
        every_slot = torch.cat([torch.arange(len(whole), device=ids.device), slots[~is_whole]])
        vectors = self.read(*self.spell(every_piece, every_slot, len(whole) + len(spelled)))

        rows = torch.zeros_like(ids)
        rows[is_real] = torch.where(is_whole, self.rows[pieces].clamp(min=NO_ROW), NO_ROW).to(ids.dtype)
        if self.training and self.rare_word_dropout:
            kept = self.counts / (self.counts + self.rare_word_dropout)
            rows = torch.where((torch.rand_like(kept) < kept)[rows], rows, NO_ROW)
        places = torch.zeros_like(ids)
        places[is_real] = slots
        if not len(vectors):  # padding alone
            return rows, vectors.new_zeros(*ids.shape, vectors.shape[1]), firsts
        return rows, vectors[places], firsts

    def spell(self, pieces: Tensor, slots: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
        """Characters of words, each put together from its pieces.

        Args:
            pieces: Ids, `(N,)`, those of a word one after the other.
            slots: `(N,)`, which of the `num_slots` words a piece is of.

        Returns:
            Characters `(U, L)`, and how many there are of each word, `(U,)`. Of a word of more than
            `max_word_characters` the middle is left out.
        """
        ends = self.ends.long()
        lengths = (ends - nn.functional.pad(ends[:-1], (1, 0)))[pieces]
        sources = ends[pieces].sub(lengths.cumsum(0)).repeat_interleave(lengths)
        sources = sources + torch.arange(len(sources), device=pieces.device)
        slots = slots.repeat_interleave(lengths)
        sizes = slots.bincount(minlength=num_slots)
        positions = torch.arange(len(slots), device=pieces.device) - (sizes.cumsum(0) - sizes)[slots]
        excess = (sizes - self.max_word_characters).clamp(min=0)
        tail = self.max_word_characters // 2 + excess[slots]
        is_kept = (positions < self.max_word_characters // 2) | (positions >= tail)
        positions = positions - torch.where(positions >= tail, excess[slots], 0)
        sizes = sizes - excess
        longest = max(1, int(sizes.max())) if num_slots else 1
        characters = torch.zeros(num_slots, longest, dtype=torch.long, device=pieces.device)
        characters[slots[is_kept], positions[is_kept]] = self.characters[sources[is_kept]].long()
        return characters, sizes

    def read(self, characters: Tensor, lengths: Tensor) -> Tensor:
        """Vectors of spellings, `(U, 2 character_hidden_size)`, from characters `(U, L)` and lengths `(U,)`."""
        order, vectors, start = lengths.argsort(), [], 0
        for share in SHARES:
            chosen = order[start : round(share * len(order))]
            if not len(chosen):
                continue
            start += len(chosen)
            longest = max(1, int(lengths[chosen[-1]]))
            is_real = torch.arange(longest, device=lengths.device) < lengths[chosen, None]
            steps = self.embed_characters(characters[chosen, :longest].t())  # as they lie in memory
            outputs, _, _ = self.layer(steps.transpose(0, 1), None, None, None if bool(is_real.all()) else ~is_real)
            vectors.append(pool(outputs, is_real, "last", 2))
        if not vectors:
            return self.embed_characters.weight.new_zeros(0, 2 * self.layer.rnn.hidden_size)
        return torch.cat(vectors)[order.argsort()]


__all__ = ["Spelling", "WordEncoder"]
