import io

import numpy as np
import pytest
from PIL import Image

from bench.data.features.image_model import UnreadableError, open_picture


def as_bytes(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED = (250, 20, 20)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (as_bytes(Image.new("RGB", (4, 4), RED)), RED),
        (as_bytes(Image.new("RGB", (4, 4), RED).quantize(4)), RED),
        (as_bytes(Image.new("RGB", (4, 4), RED), "GIF"), RED),
        (as_bytes(Image.new("RGB", (4, 4), RED), "WEBP", lossless=True), RED),
        (as_bytes(Image.new("RGB", (4, 4), RED), "BMP"), RED),
        (as_bytes(Image.new("RGB", (4, 4), RED).convert("CMYK"), "TIFF"), RED),
        (as_bytes(Image.new("L", (4, 4), 77)), (77, 77, 77)),
        (as_bytes(Image.new("I;16", (4, 4), 77 * 256 + 3)), (77, 77, 77)),
        (as_bytes(Image.new("1", (4, 4), 1)), (255, 255, 255)),
        (as_bytes(Image.new("RGBA", (4, 4), (9, 9, 9, 0))), (255, 255, 255)),
        (as_bytes(Image.new("RGBA", (4, 4), (*RED, 255))), RED),
        (as_bytes(Image.new("LA", (4, 4), (77, 255))), (77, 77, 77)),
        (as_bytes(Image.new("P", (4, 4), 0), transparency=0), (255, 255, 255)),
    ],
    ids=["png", "palette", "gif", "webp", "bmp", "cmyk", "grey", "grey16", "bits", "clear", "opaque", "la", "pa"],
)
def test_every_kind_of_picture_becomes_rgb(content, expected):
    image = open_picture(content)
    assert (image.mode, image.size) == ("RGB", (4, 4))
    assert image.getpixel((1, 1)) == expected


def test_a_cmyk_jpeg_becomes_rgb():
    image = open_picture(as_bytes(Image.new("RGB", (8, 8), RED).convert("CMYK"), "JPEG", quality=100))
    assert image.mode == "RGB"
    assert np.abs(np.array(image.getpixel((2, 2))) - RED).max() < 12


def test_a_picture_is_turned_as_its_camera_says():
    image = Image.new("RGB", (2, 1), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = open_picture(as_bytes(image, "PNG", exif=exif))
    assert turned.size == (1, 2)
    assert [turned.getpixel((0, row)) for row in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        as_bytes(NOISE, "JPEG")[:1500],
        as_bytes(NOISE, "PNG")[:1500],
        as_bytes(NOISE, "WEBP")[:300],
        as_bytes(NOISE, "BMP")[:1500],
        as_bytes(NOISE, "PNG")[:60] + bytes(60) + as_bytes(NOISE, "PNG")[120:],
    ],
    ids=["empty", "svg", "postscript", "half a jpeg", "half a png", "half a webp", "half a bmp", "overwritten png"],
)
def test_damaged_pictures_are_refused_with_a_reason(content):
    with pytest.raises(UnreadableError, match="."):
        open_picture(content)


@pytest.mark.parametrize("limit", [4095, 2000])
def test_a_picture_that_expands_beyond_the_limit_is_refused(monkeypatch, recwarn, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableError, match=r"4,096 pixels, more than the 4,095 that are safe|exceeds limit of 4000"):
        open_picture(as_bytes(NOISE))
