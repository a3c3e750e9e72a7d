"""Students: the two towers that are trained and shipped.

The image tower is any timm model by name; the text tower is a small Transformer. Nothing in here knows of
teachers, losses or distribution: a tower maps inputs to [n, D] embeddings that are *not* yet normalised.
"""

from students.image import ImageSpec, ImageTower, image_tower
from students.on_teacher import HalfLocked, OnTeacher
from students.text import TextSpec, text_tower
from students.tower import Tower

__all__ = ["HalfLocked", "ImageSpec", "ImageTower", "OnTeacher", "TextSpec", "Tower", "image_tower", "text_tower"]
