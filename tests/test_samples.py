"""Views, captions, tokens and batches: the input of a training step depends only on its position in the stream."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encoded, picture, write_tar
from PIL import Image

import teachers
from distill.data.batch import Batch
from distill.data.captions import Caption, Captions
from distill.data.loading import load_batches
from distill.data.order import Order
from distill.data.pairs import Pairs, Schedule
from distill.data.sample import Sample
from distill.data.shards import Shards
from distill.data.teacher_inputs import PixelInput, TokenInput
from distill.data.transform import Transform, TransformOptions
from distill.data.views import Views, decode
from distill.errors import BadSample, UserError
from students import SentencePieceTokenizer

SHARD = Path("shard.tar")


def raw_sample(txt: bytes | None = None, tree: object = None, image: bytes | None = None) -> Sample:
    return Sample("key", SHARD, image, txt, None if tree is None else json.dumps(tree).encode())


def test_view_0_is_the_central_square() -> None:
    image = Image.new("RGB", (90, 40), "white")
    image.paste("red", (25, 0, 65, 40))
    view = Views(crop=(0.3, 1.0), flip=True).draw("key", 0, image.size)
    assert (view.box, view.mirrored) == ((25, 0, 65, 40), False)
    pixels = view.render(image, 16)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 16, 16)
    assert (pixels[:, 8, 8] == torch.tensor([255, 0, 0])).all()


def test_a_view_depends_only_on_key_and_number_and_stays_within_its_bounds() -> None:
    views = Views(crop=(0.4, 0.8), flip=True)
    drawn = [views.draw(f"key{i % 50}", 1 + i // 50, (1200, 800)) for i in range(500)]
    assert drawn == [views.draw(f"key{i % 50}", 1 + i // 50, (1200, 800)) for i in range(500)]
    assert len({view.box for view in drawn}) > 495  # boxes are rounded to pixels: some may be equal
    for view in drawn:
        left, top, right, bottom = view.box
        assert 0 <= left < right <= 1200 and 0 <= top < bottom <= 800
        share = (right - left) * (bottom - top) / (1200 * 800)
        assert (
            0.3 < share <= 0.801
        )  # less than 0.4 only if the shape does not fit into the image; more than 0.8 by rounding
    lefts, tops, rights, bottoms = zip(*(view.box for view in drawn), strict=True)  # reach every edge
    assert min(lefts) < 20 and min(tops) < 20 and max(rights) > 1180 and max(bottoms) > 780
    assert 0.35 < np.mean([view.mirrored for view in drawn]) < 0.65


def test_without_random_crops_views_differ_only_in_mirroring() -> None:
    views = Views(crop=(1.0, 1.0), flip=True)
    drawn = [views.draw("key", number, (90, 40)) for number in range(30)]
    assert {view.box for view in drawn} == {(25, 0, 65, 40)}
    assert {view.mirrored for view in drawn} == {True, False}


def test_a_view_shows_the_same_crop_at_every_size() -> None:
    image = picture("triangle", "blue", 3, side=48).rotate(20).resize((200, 200))
    view = Views(crop=(0.5, 0.8), flip=True).draw("key", 5, image.size)
    small, large = view.render(image, 32).float(), view.render(image, 128).float()
    shrunk = torch.nn.functional.interpolate(large[None], size=32, mode="area")[0]
    assert (small - shrunk).abs().mean() < 6  # of 255: a difference by resampling, not another crop
    assert (small - shrunk.flip(-1)).abs().mean() > 15


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("size", "side"), [((96, 64), 24), ((96, 64), 200), ((64, 64), 64), ((5, 300), 16), ((1, 1), 8)]
)
def test_a_crop_is_resampled_as_by_pillow(interpolation: str, size: tuple[int, int], side: int) -> None:
    """Up to two grey levels: both round and clip after the first of two passes, which may be along another axis."""
    image = picture("circle", "green", 2, side=96).rotate(30).resize(size)
    views = Views(crop=(0.2, 0.9), flip=True)
    for number in range(6):
        view = views.draw("key", number, size)
        theirs = image.crop(view.box).resize((side, side), Image.Resampling[interpolation.upper()])
        if view.mirrored:
            theirs = theirs.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        ours = view.render(image, side, interpolation)
        assert ours.is_contiguous()
        assert (ours.int() - torch.from_numpy(np.array(theirs)).permute(2, 0, 1).int()).abs().max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16"])
def test_images_of_every_mode_become_rgb(mode: str) -> None:
    image = Image.new("I;16", (8, 8), 40000) if mode == "I;16" else picture("circle", "red", 0, 64).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert decode(raw_sample(image=encoded(image, kind))).mode == "RGB"


def test_transparent_pixels_become_white() -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert decode(raw_sample(image=encoded(image))).getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    buffer_with_key = palette.copy()
    buffer_with_key.info["transparency"] = 0
    assert decode(raw_sample(image=encoded(buffer_with_key))).getpixel((3, 3)) == (255, 255, 255)


def test_the_error_about_a_damaged_image_names_its_sample() -> None:
    whole = encoded(picture("circle", "red", 0))
    for data in (b"", b"GIF89a nonsense", whole[: len(whole) // 2]):
        with pytest.raises(UserError, match="sample 'key' of shard.tar"):
            decode(raw_sample(image=data))


def test_captions_of_every_format_are_read_in_order_without_duplicates() -> None:
    tree = {
        "captions": {"en": ["a dog", "a hound"], "de": "ein Hund"},
        "caption": [{"text": "le chien", "language": "fr"}, "a dog"],
        "width": 3,
    }
    found = Captions().read(raw_sample(b" a dog \n", tree))
    assert found == [
        Caption("a dog", "en"),
        Caption("a hound", "en"),
        Caption("ein Hund", "de"),
        Caption("le chien", "fr"),
    ]
    assert Captions(languages=("de",)).read(raw_sample(b"a dog", tree)) == [Caption("ein Hund", "de")]
    assert Captions(keys=("alt",)).read(raw_sample(None, {"alt": "x", "captions": "y"})) == [Caption("x")]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (raw_sample(b"  "), "no caption"),
        (raw_sample(None, {}), "no caption"),
        (raw_sample(b"\xff\xfe"), "cannot be read"),
        (Sample("key", SHARD, None, None, b"{"), "cannot be read"),
    ],
)
def test_the_error_about_a_missing_caption_names_its_sample(sample: Sample, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        Captions().read(sample)
    assert "sample 'key' of shard.tar" in str(error.value)


def test_drawn_captions_vary_by_epoch_with_the_given_share_of_the_first() -> None:
    own = [Caption(str(i)) for i in range(4)]
    for share, expected in ((None, 0.25), (0.7, 0.7), (1.0, 1.0), (0.0, 0.0)):
        captions = Captions(first_share=share)
        drawn = [captions.draw(own, f"key{i}", 0, 2)[0].text for i in range(2000)]
        assert drawn == [captions.draw(own, f"key{i}", 0, 2)[0].text for i in range(2000)]
        assert abs(drawn.count("0") / 2000 - expected) < 0.05
    assert {Captions().draw(own, "key", 0, epoch)[0].text for epoch in range(40)} == {"0", "1", "2", "3"}
    assert Captions(first_only=True).draw(own, "key", 0, 3) == own[:1]


def test_the_tokenizer_pads_truncates_lowercases_and_is_reproducible() -> None:
    texts = [f"a {colour} {shape}" for colour in ("red", "green", "blue") for shape in ("circle", "square")]
    tokenizer = SentencePieceTokenizer.train(texts, 60, 6)
    assert SentencePieceTokenizer.train(texts, 60, 6).model == tokenizer.model
    tokens = tokenizer.encode(["a red circle", "A RED CIRCLE", "", "a green square " * 9])
    assert tokens.shape == (4, 6) and tokens.dtype == torch.int64
    assert torch.equal(tokens[0], tokens[1])
    assert (tokens[2] == SentencePieceTokenizer.PAD).all() and (tokens[3] != SentencePieceTokenizer.PAD).all()
    assert int(tokens.max()) < tokenizer.vocab
    with pytest.raises(ValueError, match="no SentencePiece model"):
        SentencePieceTokenizer(b"nonsense", 6)


def pairs_of(shards: Shards) -> Pairs:
    tokenizer = SentencePieceTokenizer.train(["a red circle", "ein Kreis, rot", "a blue square"], 50, 8)
    drawing = TransformOptions(Captions(), Views((0.5, 1.0), True), side=16, seed=1)
    return Pairs(shards, Transform(tokenizer, [], drawing), Order(shards.counts, seed=1), 12)


def stream(shards: Shards, world: int, workers: int, start: int = 0) -> list[Batch]:
    """Steps ``start`` to 9 of the stream in batches of 12, each combined from the shares of ``world`` processes."""
    order = Order(shards.counts, seed=1)
    ranks = [
        [one for (one,) in load_batches(pairs_of(shards), workers, False, Schedule(order, 12, rank, world, start, 9))]
        for rank in range(world)
    ]
    return [
        Batch(
            {name: torch.cat([part.inputs[name] for part in step]) for name in ("image", "text")},
            (),
            tuple(key for part in step for key in part.keys),
            bad=tuple(one for part in step for one in part.bad),
            checksum=sum(part.checksum for part in step),
        )
        for step in zip(*ranks, strict=True)
    ]


def test_batches_are_the_same_for_every_number_of_processes_and_loaders(shards: Path) -> None:
    opened = Shards.open([str(shards)])
    expected = stream(opened, 1, 0)
    assert len(expected) == 9 and len({key for batch in expected for key in batch.keys}) == 64
    for world, workers, start in ((2, 0, 0), (4, 0, 0), (1, 2, 0), (2, 1, 0), (1, 0, 5), (3, 2, 7)):
        found = stream(opened, world, workers, start)
        assert len(found) == 9 - start
        for a, b in zip(expected[start:], found, strict=True):
            assert a.keys == b.keys
            assert all(torch.equal(a.inputs[name], b.inputs[name]) for name in ("image", "text"))
    opened.close()


def test_a_bad_sample_is_replaced_always_by_the_same_good_one(tmp_path: Path) -> None:
    images = {str(i): encoded(picture("circle", "red", i)) for i in range(60)}
    texts = {str(i): b"a red circle" for i in range(60)}

    def packed(name: str) -> Shards:
        members = [(f"{key}.png", image) for key, image in images.items()]
        members += [(f"{key}.txt", text) for key, text in texts.items()]
        return Shards.open([str(write_tar(tmp_path / name, members))])

    whole = packed("whole.tar")
    expected = stream(whole, 1, 0)
    images |= {"7": b"damaged", "12": b""}
    texts |= {"21": b"\xff", "3": b" "}
    opened = packed("bad.tar")
    found, bad = stream(opened, 1, 0), {"3", "7", "12", "21"}
    for before, after in zip(expected, found, strict=True):
        # Good samples keep their position in the batch, and no sample occurs twice.
        assert all(a == b for a, b in zip(before.keys, after.keys, strict=True) if a not in bad)
        assert bad.isdisjoint(after.keys) and len(set(after.keys)) == 12
        assert {one.key for one in after.bad} >= bad & set(before.keys)
    for world, workers, start in ((2, 0, 0), (4, 1, 0), (1, 1, 5)):
        for a, b in zip(found[start:], stream(opened, world, workers, start), strict=True):
            assert a.keys == b.keys and torch.equal(a.inputs["image"], b.inputs["image"]) and a.checksum == b.checksum
            assert set(a.bad) == set(b.bad)
    by_key = {one.key: one for batch in found for one in batch.bad}
    assert by_key.keys() == bad and "is of no format" in by_key["7"].reason and "no caption" in by_key["3"].reason
    for shards in (whole, opened):
        shards.close()


def test_a_bad_sample_without_any_possible_replacement_is_an_error(tmp_path: Path) -> None:
    members = [(f"{i}.{kind}", b"damaged") for i in range(12) for kind in ("png", "txt")]
    opened = Shards.open([str(write_tar(tmp_path / "a.tar", members))])
    for workers in (0, 1):
        with pytest.raises(BadSample, match="of .*a.tar cannot be used: its image is of no format"):
            stream(opened, 1, workers)
    opened.close()


def test_joint_captions_take_turns_over_the_epochs() -> None:
    own = [Caption(str(i)) for i in range(5)]
    drawn = [[c.text for c in Captions().draw(own, "key", 0, epoch, 2)] for epoch in range(5)]
    assert drawn == [["0", "1"], ["2", "3"], ["4", "0"], ["1", "2"], ["3", "4"]]
    assert [c.text for c in Captions().draw(own[:2], "key", 0, 7, 5)] == ["0", "1", "0", "1", "0"]


def mixed_batches(shards: Shards, rank: int, world: int, mixup: float = 1.0, pieces: int = 1) -> list[list[Batch]]:
    """Three batches of 12: two captions per image, mixed images, pixels for an image teacher, tokens for a text
    teacher."""
    tokenizer = SentencePieceTokenizer.train(["a red circle", "ein Kreis, rot", "a blue square"], 50, 8)
    drawing = TransformOptions(Captions(), Views((0.5, 1.0), True), side=16, seed=1, count=2, mixup=mixup)
    inputs = [PixelInput(24, "bicubic"), TokenInput(teachers.tokenizer(teachers.card("packaged/all_minilm_l6_v2")))]
    order = Order(shards.counts, seed=1)
    schedule = Schedule(order, 12, rank, world, 4, 7, mixup > 0, pieces)
    pairs = Pairs(shards, Transform(tokenizer, inputs, drawing), order, 12)
    return list(load_batches(pairs, 0, False, schedule, pieces))


@pytest.mark.parametrize("world, pieces", [(2, 1), (4, 1), (12, 1), (1, 3), (2, 2)])
def test_mixed_images_do_not_depend_on_processes_or_pieces(shards: Path, world: int, pieces: int) -> None:
    """The last image of a piece is mixed with the first of the next, the last of the batch with its first."""
    opened = Shards.open([str(shards)])
    ranks = [mixed_batches(opened, r, world, pieces=pieces) for r in range(world)]
    for (one,), *shares in zip(mixed_batches(opened, 0, 1), *ranks, strict=True):
        assert [len(share) for share in shares] == [pieces] * world
        parts = [piece for share in shares for piece in share]
        assert set(one.inputs) == {"image", "text", "mixed"} and one.inputs["text"].shape == (12, 2, 8)
        shapes = [{name: value.shape[:2] for name, value in own.items()} for own in one.teachers]
        assert shapes == [{"image": (12, 1)}, {"text": (12, 2)}]
        assert sum((part.keys for part in parts), ()) == one.keys
        for name in ("image", "text", "mixed"):
            assert torch.equal(torch.cat([part.inputs[name] for part in parts]), one.inputs[name]), name
        for k, teacher in enumerate(one.teachers):
            for name, value in teacher.items():
                assert torch.equal(torch.cat([part.teachers[k][name] for part in parts]), value)
    opened.close()


def test_student_and_teacher_get_images_mixed_with_the_same_neighbour_at_the_same_ratio(shards: Path) -> None:
    opened = Shards.open([str(shards)])
    plain, mixed = mixed_batches(opened, 0, 1, mixup=0.0), mixed_batches(opened, 0, 1, mixup=0.6)
    shares = []
    for (before,), (after,) in zip(plain, mixed, strict=True):
        assert "mixed" not in before.inputs and torch.equal(before.inputs["image"], after.inputs["image"])
        pixels = [batch.teachers[0]["image"][:, 0] for batch in (after, before)]
        for seen, own in ((after.inputs["mixed"], before.inputs["image"]), pixels):
            a, b, c = seen.double(), own.double(), own.roll(-1, 0).double()
            # The least-squares estimate of the share s in a = (1 - s) b + s c; the residual must be rounding only.
            share = ((a - b) * (c - b)).flatten(1).sum(1) / (c - b).square().flatten(1).sum(1)
            assert (a - torch.lerp(b, c, share.view(-1, 1, 1, 1))).abs().max() < 1
            shares.append(share)
    student, teacher = torch.cat(shares[0::2]), torch.cat(shares[1::2])
    assert torch.allclose(student, teacher, atol=2e-3)
    assert student.min() >= -1e-3 and 0.4 < student.max() <= 0.601 and student.std() > 0.1
    opened.close()
