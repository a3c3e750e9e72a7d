"""Teachers: cards of pretrained encoders, and the frozen forward that turns pixels into embeddings.

A card says everything about a teacher without loading it. A new teacher is one card in the module of its
group; nothing else has a list to edit.
"""

from teachers.card import Card, card, cards
from teachers.frozen import Teacher, load

__all__ = ["Card", "Teacher", "card", "cards", "load"]
