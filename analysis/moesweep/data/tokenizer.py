"""Tokenizers: bytes, a byte-level BPE trained here, or any tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Tokenizer

from moesweep.data.errors import DataToolError
from moesweep.data.files import read_limited

END_OF_DOCUMENT = "<|endoftext|>"
KNOWN_ENDS = (END_OF_DOCUMENT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "<EOS>", "[SEP]")
BATCH = 256


def shortened(documents: Sequence[str], most_bytes: int) -> Iterator[str]:
    """Documents, spread over all of them, of `most_bytes` bytes in all."""
    total = sum(len(text.encode()) for text in documents)
    left = most_bytes
    kept = 0.0
    for text in documents:
        kept += most_bytes / max(total, 1)
        if kept < 1 and total > most_bytes:
            continue
        kept -= 1
        size = len(text.encode())
        if size > left:
            text = text.encode()[:left].decode("utf-8", "ignore")
        left -= size
        if text:
            yield text
        if left <= 0:
            return


def train_bpe(texts: Sequence[Sequence[str]], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of `vocabulary` pieces, among them all bytes and the end of a document, trained on equal bytes of each domain."""
    equal = min(sum(len(text.encode()) for text in domain) for domain in texts)
    tokenizer = Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for domain in texts for text in shortened(domain, equal)), trainer)
    return tokenizer


class ByteCoder:
    """One token per byte of UTF-8; byte 0, which no text holds, ends a document."""

    end_of_document: int | None = 0
    size = 256

    def encode(self, documents: Sequence[str]) -> list[npt.NDArray[Any]]:
        return [np.frombuffer(text.encode(), np.uint8) for text in documents]

    def bytes_of(self, tokens: npt.NDArray[Any]) -> int:
        return len(tokens)


class PieceCoder:
    """Any tokenizer of the `tokenizers` library, with its end of a document if it has one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Text that looks like a special token is text.
        tokenizer.encode_special_tokens = True
        # A tokenizer.json may ask to cut or to fill up texts for a model's context: a store holds each document whole.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        known = (tokenizer.token_to_id(piece) for piece in KNOWN_ENDS)
        self.end_of_document: int | None = next((number for number in known if number is not None), None)

    def encode(self, documents: Sequence[str]) -> list[npt.NDArray[Any]]:
        encoded = self._tokenizer.encode_batch_fast(list(documents), add_special_tokens=False)
        return [np.array(item.ids, np.uint32) for item in encoded]

    def bytes_of(self, tokens: npt.NDArray[Any]) -> int:
        """Bytes of text that the tokens stand for."""
        return sum(
            len(self._tokenizer.decode(tokens[i : i + 65536].tolist(), skip_special_tokens=True).encode())
            for i in range(0, len(tokens), 65536)
        )


Coder = ByteCoder | PieceCoder


MOST_BYTES = 256 << 20


def load_tokenizer(path: Path) -> tuple[Tokenizer, bytes]:
    """The tokenizer of a tokenizer.json, and the file's content. A `config` error says why it cannot be read."""
    try:
        content = read_limited(path, MOST_BYTES, "config")
    except DataToolError as error:
        raise DataToolError("config", f"is no readable tokenizer.json: {error.message}", str(path)) from error
    try:
        return Tokenizer.from_buffer(content), content
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except (
        BaseException
    ) as error:  # the library raises bare exceptions, and for what its authors did not expect a BaseException
        raise DataToolError("config", f"is no readable tokenizer.json: {error}", str(path)) from error


def encode_all(coder: Coder, documents: Sequence[str], show: Callable[[int], None]) -> npt.NDArray[Any]:
    """All documents one after the other, each followed by the end of a document."""
    end = np.array([] if coder.end_of_document is None else [coder.end_of_document], np.uint32)
    parts: list[npt.NDArray[Any]] = []
    for start in range(0, len(documents), BATCH):
        batch = documents[start : start + BATCH]
        for tokens in coder.encode(batch):
            parts += [tokens, end]
        show(len(batch))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint32)
