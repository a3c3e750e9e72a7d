"""Teachers: cards that describe pretrained encoders, and their frozen forward from pixels or token ids to outputs.

A card describes a teacher without loading it. To add a teacher, add a card to the module of its group; nothing else
needs an edit.
"""

from teachers.card import Card
from teachers.checkpoint import read_weights
from teachers.folder import text_teacher_folder
from teachers.frozen import Teacher
from teachers.loading import files, load, network, token_shape
from teachers.local import is_path, with_weights
from teachers.registry import card, cards, is_card_name, towers
from teachers.text import TextTeacher
from teachers.tokens import TextTokenizer, tokenizer

__all__ = [
    "Card",
    "Teacher",
    "TextTeacher",
    "TextTokenizer",
    "card",
    "cards",
    "files",
    "is_card_name",
    "is_path",
    "load",
    "network",
    "read_weights",
    "text_teacher_folder",
    "token_shape",
    "tokenizer",
    "towers",
    "with_weights",
]
