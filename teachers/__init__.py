"""Teachers: cards of pretrained encoders, and the frozen forward that turns pixels into embeddings.

A card says everything about a teacher without loading it. A new teacher is one card in the module of its
group; nothing else has a list to edit.
"""

from teachers.card import Card
from teachers.frozen import Teacher, load
from teachers.registry import card, cards

__all__ = ["Card", "Teacher", "card", "cards", "load"]
