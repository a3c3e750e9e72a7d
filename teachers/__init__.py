"""Teachers: cards of pretrained encoders, and the frozen forward that turns pixels or tokens
into embeddings.

A card says everything about a teacher without loading it. A new teacher is one card in the module of its
group; nothing else has a list to edit.
"""

from teachers.card import Card
from teachers.frozen import Teacher
from teachers.loading import load, token_shape
from teachers.local import is_path, with_weights
from teachers.registry import card, cards
from teachers.text import TextTeacher
from teachers.tokens import TextTokenizer, tokenizer

__all__ = [
    "Card",
    "Teacher",
    "TextTeacher",
    "TextTokenizer",
    "card",
    "cards",
    "is_path",
    "load",
    "token_shape",
    "tokenizer",
    "with_weights",
]
