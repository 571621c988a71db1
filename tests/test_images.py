"""Pictures as people have them: every kind of file comes out upright and RGB, and bad ones as a sentence."""

import io
import struct
from zlib import crc32

import numpy as np
import pytest
from PIL import Image, ImageCms

from dvl_core.processing.images import ImageError, ImageLimits, open_image, pad_to_square, picture_grid


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def corner_picture(width: int = 40, height: int = 20) -> Image.Image:
    """White, with a red top left quarter: shows every rotation and mirroring."""
    image = Image.new("RGB", (width, height), "white")
    image.paste((255, 0, 0), (0, 0, width // 2, height // 2))
    return image


RAMP = np.linspace(0, 255, 64).round().astype(np.uint8)[None].repeat(4, axis=0)  # [4, 64], black to white


def close(image: Image.Image, grey: np.ndarray, tolerance: int = 1) -> bool:
    """Whether the picture is grey everywhere with these levels."""
    return image.mode == "RGB" and np.abs(np.asarray(image).astype(int) - grey[..., None]).max() <= tolerance


def test_paths_bytes_files_pictures_and_arrays_are_the_same_picture(tmp_path):
    image = corner_picture()
    path = tmp_path / "a picture.png"
    image.save(path)
    pixels = np.asarray(image)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), image, pixels):
        opened = open_image(source)
        assert opened.mode == "RGB" and np.array_equal(np.asarray(opened), pixels)
    assert open_image(image) is not image, "the caller's picture must stay its own"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation):
    upright = corner_picture()
    # what a camera stores so that this orientation shows the upright picture
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    operations = {
        0: Image.Transpose.FLIP_LEFT_RIGHT,
        1: Image.Transpose.FLIP_TOP_BOTTOM,
        2: Image.Transpose.ROTATE_90,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.ROTATE_270,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.TRANSVERSE,
    }
    stored = upright if orientation == 1 else upright.transpose(operations[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(open_image(encoded(stored, exif=exif))), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_costs_only_its_rotation():
    data = encoded(corner_picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert open_image(data).size == (40, 20)


def test_transparency_lies_on_white():
    rgba = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (200, 0, 0, 128))
    left, right = np.asarray(open_image(encoded(rgba)))[0].tolist()
    assert left == [255, 255, 255] and np.allclose(right, [227, 127, 127], atol=1)
    grey = Image.new("LA", (1, 1), (0, 0))
    assert open_image(encoded(grey)).getpixel((0, 0)) == (255, 255, 255)
    keyed = encoded(Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9))
    assert open_image(keyed).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_pictures_with_and_without_transparency(format):
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([0, 0, 255, 0, 255, 0])
    indexed.putdata([0, 1])
    assert np.asarray(open_image(encoded(indexed, format)))[0].tolist() == [[0, 0, 255], [0, 255, 0]]
    see_through = open_image(encoded(indexed, format, transparency=0))
    assert np.asarray(see_through)[0].tolist() == [[255, 255, 255], [0, 255, 0]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_whole_range(format):
    wide = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert wide.mode == "I;16" and close(open_image(encoded(wide, format)), RAMP)


def test_wide_integers_and_floats_are_scaled_as_expected():
    whole = RAMP.astype(np.int32)
    assert close(open_image(Image.fromarray(whole)), RAMP), "0..255 in a wide type is an 8-bit picture"
    assert close(open_image(Image.fromarray(whole * 257)), RAMP), "up to 65535 is a 16-bit one"
    assert close(open_image(encoded(Image.fromarray(whole * 100_000), "TIFF")), RAMP), "beyond, black to white"
    unit = (RAMP / 255).astype(np.float32)
    assert close(open_image(encoded(Image.fromarray(unit), "TIFF")), RAMP)
    assert close(open_image(RAMP.astype(np.float64)), RAMP)
    assert close(open_image(unit - 0.5), RAMP), "negative values: the lowest is black"
    assert open_image(np.array([[np.nan, 1.0]])).getpixel((0, 0)) == (0, 0, 0)
    assert open_image(np.full((2, 2), -3.0)).getpixel((0, 0)) == (0, 0, 0)


def test_arrays_of_every_shape():
    assert close(open_image(RAMP), RAMP) and close(open_image(RAMP[..., None]), RAMP)
    assert close(open_image(RAMP.astype(np.uint16) * 257), RAMP)
    assert close(open_image(RAMP > 127), (RAMP > 127) * 255)
    assert open_image(np.zeros((3, 5, 3), np.uint8)).size == (5, 3)
    assert open_image(np.zeros((3, 5, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(np.zeros((3, 5, 2), np.uint8)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(np.ones((4, 6, 3))[:, ::2]).size == (3, 4)
    for bad in (np.zeros((2, 2, 5)), np.zeros(7), np.zeros((2, 2), complex), np.array([["a"]])):
        with pytest.raises(ImageError):
            open_image(bad)


def test_black_and_white_and_grey():
    assert close(open_image(encoded(Image.fromarray(RAMP > 127))), (RAMP > 127) * 255)
    assert close(open_image(encoded(Image.fromarray(RAMP))), RAMP)


def test_cmyk_with_and_without_a_profile():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for options in ({}, {"icc_profile": b"not a profile"}):
        pixel = open_image(encoded(red, "JPEG", quality=100, **options)).getpixel((4, 4))
        assert np.allclose(pixel, (255, 0, 0), atol=6), "a broken profile falls back to the plain formula"
    # the profile of another kind of picture can't be applied either, and must not stop the picture
    wrong = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert open_image(encoded(red, "TIFF", icc_profile=wrong)).getpixel((4, 4))[0] > 200


def test_lab_and_other_colour_spaces():
    lab = Image.merge("LAB", [Image.new("L", (2, 2), level) for level in (255, 128, 128)])
    assert np.allclose(open_image(lab).getpixel((0, 0)), (255, 255, 255), atol=3)
    assert open_image(corner_picture().convert("YCbCr")).size == (40, 20)
    assert np.allclose(open_image(corner_picture().convert("HSV")).getpixel((0, 0)), (255, 0, 0), atol=2)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(format):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **lossless)
    assert open_image(data).getpixel((3, 2)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_usual_formats_and_their_truncated_files(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format)
    assert open_image(data).size == (64, 64)
    for keep in (0.6, 0.05):
        with pytest.raises(ImageError, match="damaged"):
            open_image(data[: int(len(data) * keep)])


def png_header(width: int, height: int) -> bytes:
    """A PNG file that says it is this large, and ends where its pixels should begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", crc32(chunk))
        + struct.pack(">I", 9)
        + b"IDAT"
    )


def test_what_is_no_picture_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "empty.png").touch()
    cases = {
        b"": "empty",
        tmp_path / "empty.png": "empty",
        b"hello, this is text": "not a picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "not a picture",
        b"<svg xmlns='http://www.w3.org/2000/svg'></svg>": "not a picture",
        tmp_path / "nothing.png": "no picture at",
        tmp_path: "not a file",
        "https://example.org/cat.png": "download",
        7: "not int",
    }
    for source, words in cases.items():
        with pytest.raises(ImageError, match=words) as error:
            open_image(source)
        assert isinstance(error.value, ValueError) and str(error.value).endswith((".", "path."))


def test_too_large_pictures_are_refused_before_decoding():
    with pytest.raises(ImageError, match="400 million pixels"):
        open_image(png_header(20_000, 20_000))
    with pytest.raises(ImageError, match=r"9,000 x 9,000 pixels \(81 million\), more than the 64 million"):
        open_image(png_header(9_000, 9_000))
    small = ImageLimits(max_pixels=100)
    with pytest.raises(ImageError, match="smaller"):
        open_image(corner_picture(), small)
    with pytest.raises(ImageError, match="smaller"):
        open_image(np.zeros((11, 10, 3), np.uint8), small)
    assert open_image(np.zeros((10, 10, 3), np.uint8), small).size == (10, 10)


def test_too_narrow_pictures_are_refused():
    with pytest.raises(ImageError, match="200 times"):
        open_image(Image.new("RGB", (2010, 10)))
    assert open_image(Image.new("RGB", (2000, 10))).size == (2000, 10)
    with pytest.raises(ImageError):
        open_image(np.zeros((0, 5, 3), np.uint8))


def test_limits_validate_themselves():
    for field in ("max_pixels", "max_aspect_ratio"):
        with pytest.raises(ValueError, match=field):
            ImageLimits(**{field: 0})


def test_one_pixel_is_a_picture():
    assert open_image(encoded(Image.new("RGB", (1, 1), "red"))).getpixel((0, 0)) == (255, 0, 0)


def test_pad_to_square_puts_the_picture_in_the_middle():
    padded = pad_to_square(Image.new("RGB", (5, 2), "red"), (1, 2, 3))
    assert padded.size == (5, 5)
    rows = [padded.getpixel((2, y)) for y in range(5)]
    assert rows == [(1, 2, 3), (255, 0, 0), (255, 0, 0), (1, 2, 3), (1, 2, 3)]
    square = Image.new("RGB", (3, 3))
    assert pad_to_square(square) is square


def test_padding_a_long_picture_does_not_fill_the_memory():
    padded = pad_to_square(Image.new("RGB", (100_000, 600), "red"))
    assert padded.size == (4096, 4096)
    assert (padded.getpixel((9, 2048)), padded.getpixel((9, 2000))) == ((255, 0, 0), (255, 255, 255))
    assert pad_to_square(Image.new("L", (9, 1)), 0, max_side=3).size == (3, 3)


def test_picture_grid_lies_over_the_original():
    plain = picture_grid((112, 84), (6, 8))
    assert (plain.rows, plain.columns, plain.box) == (3, 4, (0, 0, 112, 84))
    padded = picture_grid((100, 50), (12, 12), square=True, picture=1)
    assert (padded.rows, padded.columns, padded.box, padded.picture) == (6, 6, (0, -25, 100, 75), 1)
    # the same offset as the padding itself, odd pixels included
    assert picture_grid((5, 2), (2, 2), square=True).box == (0, -1, 5, 4)
