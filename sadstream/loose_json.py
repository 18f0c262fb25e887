"""JSON as programs write it that do not keep to the standard, made standard: what Python and JavaScript let through."""

import re

# A string may lack its end, in a line that was cut off: it is passed over all the same, and not looked for again.
_STRING_OR_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*+"?|-?\b(?:NaN|Infinity)\b', re.DOTALL)
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<alone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def standard_json(data: bytes) -> bytes:
    """JSON without numbers that are none and without halves of characters.

    `NaN` and `Infinity`, which Python writes, become null; half a surrogate pair, which JavaScript writes where it cut
    a text inside a character, becomes U+FFFD. All else stays as it is, strings that say `NaN` too.

    >>> standard_json(b'{"reward": NaN, "text": "NaN \\\\ud83d"}')
    b'{"reward": null, "text": "NaN \\\\ufffd"}'
    """
    return _STRING_OR_NUMBER.sub(lambda found: _whole(found[0]) if found[0][:1] == b'"' else b"null", data)


def _whole(string: bytes) -> bytes:
    if not _SURROGATE.search(string):
        return string
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found["alone"] else found[0], string)
