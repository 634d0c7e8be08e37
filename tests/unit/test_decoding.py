"""Files are made with Pillow, which the package does not depend on, so that it can be the judge."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mnist_ocr.digits.decoding import (
    DECODE_STATUSES,
    MAX_BYTES,
    UnreadableImageError,
    decode_image,
)

GREY = np.kron(np.arange(42, dtype=np.uint8).reshape(7, 6) * 6, np.ones((3, 3), np.uint8))
"""(21, 18), so that a wrongly turned page has another shape."""
RGB = np.dstack([GREY, GREY[::-1], 255 - GREY])
INK = np.zeros((28, 28), np.uint8)
INK[6:22, 12:16] = 255
ANIMATED: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]}


def encode(pixels: np.ndarray | Image.Image, format_name: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def convert(pixels: np.ndarray, mode: str) -> Image.Image:
    return Image.fromarray(pixels).convert(mode)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def png(header: bytes, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG of (width, height, depth, colour type) packed as IHDR wants them."""
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header + b"\0\0\0")
    return start + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


def tiff(pixels: bytes, fields: dict[int, int]) -> bytes:
    """A little-endian TIFF of one strip; `fields` by tag, all but the strip's."""
    fields = {259: 1, 273: 8, 277: 1, 279: len(pixels), **fields}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, fields[tag]) for tag in sorted(fields))
    start = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels
    return start + struct.pack("<H", len(fields)) + entries + bytes(4)


def bmp(width: int, height: int, bits: int, compression: int, masks: bytes, pixels: bytes) -> bytes:
    """A BMP with a 40-byte header."""
    start = struct.pack("<2s8xI", b"BM", 54 + len(masks))
    header = struct.pack("<IiiHHI20x", 40, width, height, 1, bits, compression)
    return start + header + masks + pixels


def status_of(data: bytes) -> str:
    """Why `data` cannot be decoded; `ok` if it can."""
    try:
        page = decode_image(data)
    except UnreadableImageError as error:
        return error.status
    assert page.dtype == np.uint8
    assert page.ndim == 2
    assert page.flags.c_contiguous
    return "ok"


FILES = {
    "png": encode(GREY, "PNG"),
    "png_16_bit": encode(GREY.astype(np.uint16) * 257, "PNG"),
    "png_palette": encode(convert(RGB, "P"), "PNG", transparency=3),
    "png_alpha": encode(np.dstack([RGB, GREY]), "PNG"),
    "png_animated": encode(GREY, "PNG", **ANIMATED),
    "jpeg": encode(GREY, "JPEG"),
    "jpeg_progressive": encode(RGB, "JPEG", progressive=True),
    "jpeg_cmyk": encode(convert(RGB, "CMYK"), "JPEG"),
    "tiff": encode(GREY, "TIFF"),
    "tiff_16_bit": encode(GREY.astype(np.uint16) * 257, "TIFF"),
    "tiff_big": encode(GREY, "TIFF", big_tiff=True),
    "tiff_palette": encode(convert(RGB, "P"), "TIFF"),
    "tiff_lzw": encode(np.dstack([RGB, GREY]), "TIFF", compression="tiff_lzw"),
    "tiff_jpeg": encode(GREY, "TIFF", compression="jpeg"),
    "tiff_fax": encode(convert(GREY, "1"), "TIFF", compression="group4"),
    "bmp": encode(GREY, "BMP"),
    "bmp_colour": encode(RGB, "BMP"),
    "bmp_1_bit": encode(convert(GREY, "1"), "BMP"),
    "gif": encode(GREY, "GIF"),
    "gif_animated": encode(GREY, "GIF", transparency=1, **ANIMATED),
    "webp": encode(RGB, "WEBP"),
    "webp_lossless": encode(np.dstack([RGB, GREY]), "WEBP", lossless=True),
    "webp_animated": encode(GREY, "WEBP", lossless=True, **ANIMATED),
}


@pytest.mark.parametrize("name", FILES)
def test_page_is_what_pillow_shows(name: str) -> None:
    """Every format and depth gives Pillow's grey values, within rounding or JPEG's."""
    image = Image.open(io.BytesIO(FILES[name]))
    expected = [np.asarray(GREY)]
    if not image.mode.startswith("I"):
        page = image.convert("RGBA")
        papers = [Image.new("RGBA", page.size, (level,) * 3 + (255,)) for level in (255, 0)]
        expected = [np.asarray(Image.alpha_composite(paper, page).convert("L")) for paper in papers]
    # JPEG's own grey is not clipped to colours that RGB can show, as Pillow's detour is
    tolerance = 12 if name.startswith("jpeg") else 2
    actual = decode_image(FILES[name]).astype(int)
    assert min(np.abs(actual - paper).max() for paper in expected) <= tolerance


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_never_a_page(name: str) -> None:
    """A file cut anywhere is an error, unless the first frame's pixels are all there."""
    data, whole = FILES[name], decode_image(FILES[name])
    statuses = [status_of(data[:length]) for length in range(len(data))]
    assert statuses[0] == "empty"
    assert set(statuses[1:18]) <= {"not_an_image", "truncated"}
    assert "truncated" in statuses
    assert set(statuses) <= {"empty", "not_an_image", "truncated", "corrupt", "ok"}
    assert statuses.count("corrupt") <= 3  # in padding, or in what follows a TIFF's directory
    for length in (i for i, status in enumerate(statuses) if status == "ok"):
        np.testing.assert_array_equal(decode_image(data[:length]), whole)


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_raises_nothing_else(name: str) -> None:
    """Random bytes anywhere give a page or an UnreadableImageError."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(400):
        data = np.frombuffer(FILES[name], np.uint8).copy()
        reach = len(data) if rng.random() < 0.5 else min(len(data), 120)
        where = rng.integers(0, reach, rng.integers(1, 6))
        data[where] = rng.integers(0, 256, len(where))
        assert status_of(data.tobytes()) in {"ok", *DECODE_STATUSES}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "empty"),
        (b"4", "not_an_image"),
        (b"BMW makes cars, not bitmaps.", "not_an_image"),
        (b"<!DOCTYPE html><title>404</title>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"),
        (b"%PDF-1.7\n", "not_an_image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not_an_image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image"),
        (b"\0" * 1000, "not_an_image"),
        (b"GIF89a" + bytes(MAX_BYTES), "too_large"),
    ],
)
def test_what_is_no_image_is_told_by_its_bytes(data: bytes, status: str) -> None:
    """Only the six formats' magic bytes are let through, and not in any size."""
    assert status_of(data) == status


def test_message_says_what_the_file_looks_like() -> None:
    """The first bytes are in the sentence, so that an error page is recognised."""
    with pytest.raises(UnreadableImageError, match="it starts with b'<html>") as caught:
        decode_image(b"<html><body>Forbidden")
    assert caught.value.status == "not_an_image"


SIDE = 60_000
BOMBS = {
    "png": png(struct.pack(">IIBB", SIDE, SIDE, 8, 0), b""),
    "jpeg": b"\xff\xd8\xff\xc0\0\x0b\x08" + struct.pack(">HH", SIDE, SIDE) + b"\x01\x01\x11\0"
    b"\xff\xda\0\x08\x01\x01\0\0\0\0\0\xff\xd9",
    "tiff": tiff(b"\0", {256: SIDE, 257: SIDE, 258: 8, 262: 1}),
    "tiff_tile": tiff(b"\0", {256: 1, 257: 1, 258: 8, 262: 1, 322: SIDE, 323: SIDE}),
    "bmp": bmp(SIDE, -SIDE, 8, 1, b"", b""),
    "gif_screen": b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0, 0, 0)
    + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\0;",
    "gif_frame": b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    + b"," + struct.pack("<HHHHB", 0, 0, SIDE, SIDE, 0) + b"\x02\0;",
    "webp_canvas": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (SIDE.to_bytes(3, "little") * 2),
    "webp_lossy": b"RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f",
    "webp_lossless": b"RIFF\x11\0\0\0WEBPVP8L\x05\0\0\0\x2f\xff\xff\xff\x0f",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_from_its_header(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More pixels than a worker has memory for are refused before anything is decoded."""
    monkeypatch.setattr(cv2, "imdecodeWithMetadata", None)
    assert status_of(BOMBS[name]) == "too_large"


def test_a4_at_600_dpi_is_not_too_large() -> None:
    """The largest ordinary scan is a page."""
    assert decode_image(encode(Image.new("1", (4960, 7016)), "PNG")).shape == (7016, 4960)


def test_image_without_pixels_is_corrupt() -> None:
    """0 x 5 pixels are no page, whoever wrote them."""
    with pytest.raises(UnreadableImageError, match="claims 0 x 5 pixels"):
        decode_image(png(struct.pack(">IIBB", 0, 5, 8, 0), b""))


def test_endless_row_is_too_large() -> None:
    """Two million pixels in one row are few, but more than the decoders take."""
    assert status_of(png(struct.pack(">IIBB", 2_000_000, 1, 8, 0), b"")) == "too_large"


def test_exception_of_the_decoder_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is known past the header checks; should one come, it is not the job's end."""

    def refuse(*_: object) -> None:
        raise cv2.error

    monkeypatch.setattr(cv2, "imdecodeWithMetadata", refuse)
    assert status_of(FILES["png"]) == "corrupt"


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"])
def test_png_with_a_wrong_checksum_is_corrupt(kind: bytes) -> None:
    """One flipped bit in what makes pixels is seen, tRNS too, which the decoder lets pass."""
    data = bytearray(FILES["png_palette"])
    data[data.index(kind) + 5 if kind != b"IEND" else -1] ^= 1
    assert status_of(bytes(data)) == "corrupt"


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.new("F", (4, 4)), "TIFF"),
        encode(Image.new("I", (4, 4)), "TIFF"),
        tiff(b"\0", {256: 1, 257: 1, 258: 8, 262: 1, 339: 2}),
        encode(Image.new("LA", (4, 4)), "TIFF"),
        tiff(bytes(4), {256: 4, 257: 4, 258: 2, 262: 1}),
        tiff(bytes(4), {256: 1, 257: 1, 258: 8, 262: 1, 259: 34925}),
        tiff(bytes(6), {256: 1, 257: 1, 258: 16, 262: 2, 277: 3, 284: 2}),
        encode(convert(RGB, "CMYK"), "JPEG").replace(b"Adobe", b"Other"),
        FILES["jpeg"].replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"),
        bmp(1, 1, 32, 3, struct.pack("<3I", 0xFF000000, 0xFF0000, 0xFF00), bytes(4)),
    ],
    ids=["f32", "i32", "i8", "grey_alpha", "2_bit", "lzma", "planar", "cmyk", "12_bit", "masks"],
)
def test_variant_that_opencv_misreads_is_unsupported(data: bytes) -> None:
    """Where the decoder has no or the wrong idea, the file is refused by name."""
    assert status_of(data) == "unsupported"


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(format_name: str) -> None:
    """40000 of 65535 is 156 of 255."""
    levels = np.array([[0, 128, 129, 40000, 65000, 65535]], np.uint16)
    assert decode_image(encode(levels, format_name)).tolist() == [[0, 0, 1, 156, 253, 255]]


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_tiff_where_0_is_white(bits: int) -> None:
    """A TIFF that counts ink is inverted at every depth."""
    assert decode_image(tiff(bytes(2), {256: 1, 257: 1, 258: bits, 262: 0})).tolist() == [[255]]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_low_depths_are_stretched(depth: int) -> None:
    """The highest level of 1, 2 and 4 bits is white."""
    data = png(struct.pack(">IIBB", 2, 1, depth, 0), b"\0" + bytes([0xFF >> depth]))
    assert decode_image(data).tolist() == [[0, 255]]


def test_bmp_bytes_for_alpha_are_padding() -> None:
    """A 32-bit BMP of the usual bit fields is opaque, whatever its fourth byte."""
    masks = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)
    assert decode_image(bmp(1, 1, 32, 3, masks, b"\0\0\0\0")).tolist() == [[0]]


def test_colours_are_weighed_as_rec_601() -> None:
    """Red, green and blue weigh 0.299, 0.587 and 0.114."""
    rgb = np.diag([255, 255, 255]).astype(np.uint8)[None]
    for data in (encode(rgb, "PNG"), encode(rgb, "BMP"), encode(rgb, "TIFF")):
        assert decode_image(data).tolist() == [[76, 150, 29]]


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (90, 255), (255, 0), (180, 0)])
@pytest.mark.parametrize("hidden", [0, 255])
def test_ink_on_transparent_paper_never_vanishes(
    format_name: str, ink: int, paper: int, hidden: int
) -> None:
    """Dark ink lies on white, light ink on black, whatever colour the transparent parts hide."""
    grey = np.where(INK > 0, ink, hidden).astype(np.uint8)
    options: dict[str, Any] = {"lossless": True, "exact": True} if format_name == "WEBP" else {}
    page = decode_image(encode(np.dstack([grey, grey, grey, INK]), format_name, **options))
    np.testing.assert_array_equal(page, np.where(INK > 0, ink, paper))


def test_faint_dark_ink_stays_on_white() -> None:
    """A pencil stroke of one third opacity is no reason for black paper."""
    page = decode_image(encode(np.dstack([np.zeros((28, 28, 3), np.uint8), INK // 3]), "PNG"))
    assert page.max() == 255
    assert page.min() == 170


def test_card_with_transparent_corners_lies_on_white() -> None:
    """A light card keeps its light surroundings: its own ink shows on white."""
    alpha = np.full((28, 28), 255, np.uint8)
    alpha[:3, :3] = alpha[-3:, -3:] = 0
    page = decode_image(encode(np.dstack([250 - INK // 2] * 3 + [alpha]), "PNG"))
    assert page[0, 0] == 255
    assert page[14, 14] == 123


@pytest.mark.parametrize(
    ("depth", "row", "level"),
    [(2, b"\x10", 1), (4, b"\x05", 5), (8, b"\0\x55", 0x55), (16, b"\0\0\x55\x55", 0x5555)],
)
def test_png_with_one_transparent_grey(depth: int, row: bytes, level: int) -> None:
    """A grey PNG's tRNS counts, which the decoder drops: black is ink, the dark grey is paper."""
    header = struct.pack(">IIBB", 2, 1, depth, 0)
    data = png(header, b"\0" + row, png_chunk(b"tRNS", struct.pack(">H", level)))
    assert decode_image(data).tolist() == [[0, 255]]


def test_half_transparent_tiff_is_not_multiplied_twice() -> None:
    """What libtiff has multiplied by alpha stays: white of alpha 128 on black is 128."""
    rgba = np.dstack([np.full((28, 28, 3), 255, np.uint8), INK // 2 + INK % 2])
    page = decode_image(encode(rgba, "TIFF"))
    assert (page.min(), page.max()) == (0, 128)


def test_gif_whose_last_frame_is_opaque_keeps_its_first_transparent() -> None:
    """The decoder would show black paper under black ink."""
    ink_only = np.dstack([np.zeros((28, 28, 3), np.uint8), INK])
    opaque = Image.fromarray(INK).convert("P")
    data = encode(ink_only, "GIF", save_all=True, append_images=[opaque], disposal=2)
    np.testing.assert_array_equal(decode_image(data), 255 - INK)


@pytest.mark.parametrize("name", ["png_animated", "gif_animated", "webp_animated"])
def test_first_frame_is_the_page(name: str) -> None:
    """Of an animation the first frame counts."""
    assert np.abs(decode_image(FILES[name]).astype(int) - GREY).max() <= 1


def test_first_page_of_a_tiff_is_the_page() -> None:
    """Of a scanned stack the first sheet counts."""
    np.testing.assert_array_equal(decode_image(encode(GREY, "TIFF", **ANIMATED)), GREY)


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_page_is_turned_upright(format_name: str, orientation: int) -> None:
    """EXIF and TIFF orientations 1 to 8 are applied, once."""
    options: dict[str, Any] = {"lossless": True} if format_name == "WEBP" else {}
    exif = Image.Exif()
    exif[274] = orientation
    page = decode_image(encode(GREY, format_name, exif=exif, **options))
    expected = UPRIGHT[orientation](GREY)
    assert page.shape == expected.shape
    assert np.abs(page.astype(int) - expected).max() <= 8


@pytest.mark.parametrize(
    "exif", [b"", b"II*\0", b"MM\0*\0\0\xff\xff", b"Exif\0\0II+\0" + b"\xff" * 30]
)
def test_broken_exif_leaves_the_page_as_stored(exif: bytes) -> None:
    """Bad metadata are no reason to lose an image."""
    chunk = png_chunk(b"eXIf", exif)
    data = FILES["png"][:33] + chunk + FILES["png"][33:]
    np.testing.assert_array_equal(decode_image(data), GREY)


def test_odd_metadata_leave_no_trace_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """A job over millions of odd files does not flood its log."""
    noisy = [
        FILES["png"][:33]
        + png_chunk(b"hIST", b"\0")
        + png_chunk(b"iCCP", b"x")
        + FILES["png"][33:],
        FILES["png"][:-40],
        FILES["tiff"].replace(struct.pack("<HH", 279, 4), struct.pack("<HH", 40000, 4)),
        FILES["gif"][:20],
        tiff(b"\0", {256: 1, 257: 1, 258: 8, 262: 1, 297: 7, 65000: 1}),
    ]
    for data in noisy:
        status_of(data)
    assert capfd.readouterr().err == ""


def test_photo_may_have_anything_behind_its_end() -> None:
    """Phones append films: markers that occur there, or in a thumbnail, are no scans."""
    data = encode(RGB, "JPEG", progressive=True)
    film = np.random.default_rng(0).bytes(4000) + b"\xff\xda" * 200
    assert (decode_image(data + film) == decode_image(data)).all()
    segment = b"\xff\xe1" + (2 + len(film)).to_bytes(2) + film
    assert (decode_image(data[:2] + segment + data[2:]) == decode_image(data)).all()
