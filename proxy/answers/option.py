"""The option of a multiple-choice question that a short text names."""

from __future__ import annotations

import re

#: The option's own text, which is not the rest of a formula: "(a) + 1".
_TEXT = r"(?:[*_:.]{0,3}\s(?![-+/^=<>|&]\s).*)?"
_PATTERN = re.compile(
    rf"""
    (?:(?:the\s)?(?i:option|choice|answer)\s)?[*_]{{0,3}}
    (?: [(\[]([A-Ja-j])[)\]]{_TEXT}                              # (B)   [b]   (B) Paris
      | ([A-Ja-j])\){_TEXT}                                      # b)    B) Paris
      | ([A-J])[*_]{{0,3}}\.\s(?![a-z]+\W*$)\S.*                 # B. Paris, but not E. coli
      | ([A-J])\s\(.*\)                                          # B (Paris)
      | ([A-Ja-j])[.:]?                                          # B
    )[*_]{{0,3}}
  | (?i:option|choice)\s([A-J])(?:[:.,]?\s.*)?                   # Option B: Paris
    """,
    re.VERBOSE | re.DOTALL,
)
#: A second option, of several chosen ones or a list of all; or a second initial of a name.
_SECOND = re.compile(r"\s\(?[A-Z][.)](?:\s|$)")


def letter(text: str) -> str | None:
    """The letter A-J of an option: ``(b)``, ``B.``, ``Option B``, ``B) Paris``, ``B. Paris``.

    An article is no option (``A farmer``), and neither are the initials of a name
    (``J. K. Rowling``, ``E. coli``).
    """
    found = _PATTERN.fullmatch(text)
    if found is None or found.lastindex is None:
        return None
    if _SECOND.search(text, found.end(found.lastindex)):
        return None
    return found[found.lastindex].upper()
