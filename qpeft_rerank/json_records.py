"""JSON objects one at a time from a file that holds one large array, or one object after the other (JSONL).

A retrieval file of 4 GB is an array of 4 GB: it must not be read into memory at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from qpeft_rerank.errors import FormatError
from qpeft_rerank.files import Source, open_text, source_name

_CHUNK = 1 << 20
# In characters. A question with 1,000 passages is about one million; what does not end within this is not
# JSON.
_LONGEST_RECORD = 1 << 26
_SPACE = " \t\r\n"


def read_records(source: Source) -> Iterator[tuple[int, dict]]:
    """Yield (number from 1, object). FormatError, with the number, for what is no object or is cut off."""
    name = source_name(source)
    with open_text(source, "JSON file") as stream:
        text = _Window(stream)
        in_array = text.skip("[")
        number = 0
        while True:
            if in_array and number == 0 and text.skip("]"):
                break
            if not in_array and text.at_end():
                return
            number += 1
            yield number, text.decode_object(name, number)
            if in_array and not text.skip(","):
                if not text.skip("]"):
                    what = "the array is cut off" if text.at_end() else "expected ',' or ']'"
                    raise FormatError(name, None, f"after record {number}: {what}")
                break
        if not text.at_end():
            raise FormatError(name, None, f"text after the end of the array of {number} records")


class _Window:
    """The part of a stream that is being looked at."""

    def __init__(self, stream):
        self._stream, self._text, self._at, self._ended = stream, "", 0, False
        self._decoder = json.JSONDecoder()

    def skip(self, char: str) -> bool:
        """Step over white space, then over ``char`` if it is next; say whether it was."""
        if self.at_end() or self._text[self._at] != char:
            return False
        self._at += 1
        return True

    def at_end(self) -> bool:
        """Step over white space and say whether nothing is left."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return False
            if self._ended:
                return True
            self._more(_CHUNK)

    def decode_object(self, name: str, number: int) -> dict:
        if self.at_end():
            raise FormatError(name, None, f"record {number}: the file is cut off")
        if self._text[self._at] != "{":
            raise FormatError(name, None, f"record {number}: expected a JSON object")
        while True:
            try:
                record, self._at = self._decoder.raw_decode(self._text, self._at)
                return record
            except RecursionError:
                raise FormatError(name, None, f"record {number}: nested too deeply") from None
            except ValueError as error:  # wrong, or the window ends within the record: more text tells
                held = len(self._text) - self._at
                if self._ended or held > _LONGEST_RECORD:
                    cut = ", or the file is cut off" if self._ended else ""
                    message = getattr(error, "msg", str(error))
                    raise FormatError(name, None, f"record {number}: not JSON: {message}{cut}") from None
                self._more(max(held, _CHUNK))  # doubled, so that a long record is not decoded many times

    def _more(self, size: int) -> None:
        chunk = self._stream.read(size)
        self._ended = not chunk
        self._text, self._at = self._text[self._at :] + chunk, 0
