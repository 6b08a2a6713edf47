"""Whether the bytes that a text begins with are of UTF-16 or UTF-32."""

import codecs
import unicodedata

# Control characters, without and with those that UTF-8 text has too.
CONTROLS, LOW = bytes({*range(32)} - {*b"\t\n\f\r"}), bytes(range(32))


def wide_encoding(head: bytes) -> str | None:
    """utf-16, utf-16le, utf-16be or the like of UTF-32, where the bytes that a text begins with are that; else None.

    Without a byte order mark they are where they read as assigned characters, and not as UTF-8, or only as UTF-8 with
    control characters in places that the wide encoding explains.
    """
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(head.translate(None, CONTROLS)) == len(head):
        return None
    for encoding in ("utf-32le", "utf-32be"):
        if head.count(0) > 1 and _wide_text(head, encoding):
            return encoding
    texts = {encoding: _wide_text(head, encoding) for encoding in ("utf-16le", "utf-16be")}
    found = {encoding: text for encoding, text in texts.items() if text and _is_regular(head, encoding, text)}
    # Both can be sound: the letters of ASCII are Chinese the other way round.
    return max(found, key=lambda encoding: sum(map(str.isascii, found[encoding])), default=None)


def _decoded(head: bytes, encoding: str) -> str | None:
    """The text of bytes, without a character that they break off in; None where they are not of the encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None


def _wide_text(head: bytes, encoding: str) -> str | None:
    """The text of bytes, if nearly all of its characters are ones that texts have; else None."""
    text = _decoded(head, encoding)
    if not text:
        return None
    odd = sum(unicodedata.category(one) in ("Cc", "Cn", "Co", "Cs") and one not in "\t\r\n" for one in text)
    return text if odd <= 0.01 * len(text) else None


def _is_regular(head: bytes, encoding: str, text: str) -> bool:
    """Whether the bytes of a text of UTF-16 are that rather than UTF-8 with some NUL characters."""
    high, low = (head[1::2], head[::2]) if encoding == "utf-16le" else (head[::2], head[1::2])
    controls, low_controls = (len(half) - len(half.translate(None, CONTROLS)) for half in (high, low))
    if len(text) > 1 and controls and len(high.translate(None, LOW)) <= 0.1 * len(high):
        # Scripts of the first 8192 characters, as Latin, Arabic, Hindi and Thai: often they are UTF-8 as well.
        return low_controls < controls or _decoded(head, "utf-8") is None
    if head.count(0) > 1 and high.count(0) and controls >= 0.3 * len(high) and low_controls <= 0.1 * controls:
        return True
    if high.count(0) >= max(16, 0.04 * len(high)) and low.count(0) <= 0.1 * high.count(0):
        return True
    # Line ends of two bytes each, in text that is no UTF-8.
    wide_ends = 2 * text.count("\n") > head.count(b"\n")
    return _decoded(head, "utf-8") is None and 0 in head and (wide_ends or b"\n" not in head)
