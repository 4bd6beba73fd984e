"""Numbers as people write them: "1,234.5", "-3/4", "1 1/2", "6.02 * 10^23", "12 cm"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from proxy.answers.surface import NUMBER, words

#: Powers of ten beyond this stay text: 1e999999999 must not become a number of a billion digits.
MAX_EXPONENT = 400

_SCALES: Mapping[str, Fraction | int] = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "%": Fraction(1, 100),
    "percent": Fraction(1, 100),
    "per cent": Fraction(1, 100),
    "pct": Fraction(1, 100),
}
#: Units of one letter, told from variables by their case and by the space before them.
_LETTER_UNITS = frozenset("mgslLhWVJKNCFA")
#: Units that are known even where they touch the number or have two letters.
_SHORT_UNITS = words(
    "mm cm dm km nm um µm μm in ft yd mi mg kg lb lbs oz ml mL cl dl hl ms ns hr hrs min sec "
    "Hz kHz MHz GHz Pa kPa MPa eV keV MeV kW MW kWh kJ kcal mol mmol dB px pt kB KB MB GB TB "
    "mph kph kmh rpm ha ac rad deg USD EUR GBP JPY CNY CHF ° °C °F ℃ ℉ € £ ¥ ₹ ¢ st nd rd th"
)
#: Words that stand behind a number and are no unit of it.
_NO_UNITS = words(
    "am pm bc ad bce ce pi tau phi psi chi rho eta theta alpha beta gamma delta epsilon zeta "
    "iota kappa lambda mu nu xi omega sigma sin cos tan cot sec csc log ln exp sqrt abs and "
    "or to mod choose infinity factorial squared cubed"
)

_PATTERN = re.compile(
    rf"""
    (?:(?:≈|~|about|approximately|approx\.?|around|roughly|exactly)\s*)?
    (?P<sign>[-+]?)\s?
    (?:(?:[€£¥₹]|USD|EUR|GBP|JPY|CNY|CHF)\s?)?
    (?P<paren>\()?
    (?:
        (?P<whole>[0-9]+)\s(?P<over>[0-9]+)/(?P<under>[0-9]+)
      | (?P<above>-?(?:{NUMBER}|[0-9]{{1,3}}(?:[ '][0-9]{{3}})+))
        (?:\s?/\s?(?P<below>-?{NUMBER})
          | [eE](?P<e>[-+]?[0-9]{{1,3}})
          | \s?[*x]\s?10\^\(?(?P<ten>-?[0-9]{{1,3}})\)?
        )?
      | 10\^\(?(?P<power>-?[0-9]{{1,3}})\)?
    )
    (?(paren)\))
    (?P<gap>\s?)
    (?P<unit>(?:[^\W\d_]|[%°℃℉€£¥₹¢]).{{0,40}})?
    """,
    re.VERBOSE,
)
_SCALE = re.compile(rf"(?P<scale>{'|'.join(_SCALES)})(?:\s(?P<unit>.+))?", re.IGNORECASE)
_UNIT = re.compile(
    r"""
    (?:(?:square|cubic|sq\.?|cu\.?)\s)?
    (?P<word>°?[^\W\d_]+|[°℃℉€£¥₹¢])(?P<power>\^-?[0-9])?
    (?:\s?(?:/|\*|\sper\s)\s?[^\W\d_]+(?:\^-?[0-9])?){0,3}
    """,
    re.VERBOSE,
)


def quantity(text: str) -> Fraction | None:
    """The number that a text is, exactly; None where it is something else, or more.

    One trailing unit (``12 cm``, ``9.8 m/s^2``, ``3 apples``) and a currency are dropped, and
    never what may be a variable (``5x``, ``2 pi``) or changes the meaning (``3 pm``). Percent
    divides by a hundred. The text is plain: no LaTeX, dollars or typographic signs.
    """
    found = _PATTERN.fullmatch(text)
    if found is None:
        return None
    scale = _scale(found["unit"] or "", touching=not found["gap"])
    if scale is None:
        return None
    exponent = int(found["e"] or found["ten"] or found["power"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    try:
        if found["whole"]:
            number = int(found["whole"]) + Fraction(int(found["over"]), int(found["under"]))
        else:
            number = _number(found["above"] or "1") / _number(found["below"] or "1")
    except ZeroDivisionError:
        return None
    return (-1 if found["sign"] == "-" else 1) * number * Fraction(10) ** exponent * scale


def _number(digits: str) -> Fraction:
    return Fraction(re.sub("[,' ]", "", digits))


def _scale(unit: str, *, touching: bool) -> Fraction | int | None:
    """What a number is multiplied by for what stands behind it; None where that is no unit."""
    if not unit:
        return 1
    if scaled := _SCALE.fullmatch(unit):
        rest = _scale(scaled["unit"] or "", touching=False)
        return None if rest is None else rest * _SCALES[scaled["scale"].lower()]
    found = _UNIT.fullmatch(unit)
    if found is None:
        return None
    word = found["word"]
    if word in _SHORT_UNITS:
        return 1
    if touching or word.lower() in _NO_UNITS:
        return None
    return 1 if len(word) > 2 or word in _LETTER_UNITS else None
