"""Students: the towers that are trained and exported.

The image tower is any timm model by name; a text tower is a module of ``students/texts/``. This package is independent
of teachers, losses and distribution. A tower maps its input to outputs by name; "embedding" [n, D] is *not*
normalised.
"""

from students.catalogue import IMAGE_STUDENTS, ImageStudent
from students.image import ImageSpec, ImageTower, as_tokens, image_tower
from students.inheritance import Inherited
from students.on_teacher import HalfLocked, OnTeacher
from students.sentencepiece_tokenizer import SentencePieceTokenizer
from students.text_tower import OptionsLike, TextOptions, TextTower
from students.texts import text_tower_class
from students.tokenizer import Tokenizer
from students.tower import Tower

__all__ = [
    "IMAGE_STUDENTS",
    "HalfLocked",
    "ImageSpec",
    "ImageStudent",
    "ImageTower",
    "Inherited",
    "OnTeacher",
    "OptionsLike",
    "SentencePieceTokenizer",
    "TextOptions",
    "TextTower",
    "Tokenizer",
    "Tower",
    "as_tokens",
    "image_tower",
    "text_tower_class",
]
