"""Final answers: taken out of replies, brought to a normal form, compared. Judges' replies read.

Pure and linear. Every parser looks only at the last 8,000 characters after the last ``</think>``.
"""

from proxy.answers.expression import worth_comparing
from proxy.answers.extraction import extract
from proxy.answers.judgement import choice, score, verdict
from proxy.answers.normal_form import normalise, same
from proxy.answers.tool_calls import tool_call_key

__all__ = [
    "choice",
    "extract",
    "normalise",
    "same",
    "score",
    "tool_call_key",
    "verdict",
    "worth_comparing",
]
