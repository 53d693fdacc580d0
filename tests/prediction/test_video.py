import contextlib
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from dualtoken.errors import ConfigError, ImageError, MissingExtraError, OutputError
from dualtoken.images import ImageLimits
from dualtoken.prediction.video import VideoWriter, frames, is_video, video_info

av = pytest.importorskip("av")

CORNER = (255, 0, 0)


def image(number=0, size=(64, 48)) -> Image.Image:
    """Grey, lighter with `number`, with red in its upper left."""
    picture = Image.new("RGB", size, (20 * number,) * 3)
    picture.paste(CORNER, (0, 0, size[0] // 2, size[1] // 2))
    return picture


def write(path, number=8, size=(64, 48), fps=10):
    with VideoWriter(path, fps, (size[1], size[0])) as video:
        for place in range(number):
            video.write(image(place, size))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = write(tmp_path / "deep" / f"a{suffix}")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    times, images = zip(*frames(path), strict=True)
    np.testing.assert_allclose(times, np.arange(8) / 10, atol=2e-3)
    for place, picture in enumerate(images):
        assert (picture.mode, picture.size) == ("RGB", (64, 48))
        assert abs(np.asarray(picture)[40, 50].astype(int) - 20 * place).max() < 12
        assert abs(np.asarray(picture)[10, 10].astype(int) - CORNER).max() < 40
    size, fps, seconds = video_info(path)
    assert (size, fps) == ((48, 64), 10)
    assert seconds == pytest.approx(0.8, abs=0.11)


def test_odd_sizes_get_a_row_and_a_column(tmp_path):
    path = write(tmp_path / "a.mp4", size=(63, 47))
    *_, (_, picture) = frames(path)
    assert picture.size == (64, 48)
    pixels = np.asarray(picture).astype(int)
    assert abs(pixels[30:, -1] - 140).max() < 12  # not black: the last column twice
    assert abs(pixels[-1, 40:] - 140).max() < 12


def test_broken_rates_are_kept(tmp_path):
    path = write(tmp_path / "a.mp4", fps=Fraction(30000, 1001))
    assert float(video_info(path).fps) == pytest.approx(29.97, abs=0.01)


@pytest.mark.parametrize(("matrix", "red"), [((0, 1, -1, 0), "upper right"), ((0, -1, 1, 0), "lower left")])
def test_videos_of_phones_stand_upright(tmp_path, matrix, red):
    path = write(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # a 3 x 3 matrix of 32-bit numbers, of which 4 turn
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        content[start + place : start + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    picture = next(frames(path))[1]
    assert picture.size == (48, 64)
    assert video_info(path).size == (64, 48)
    x, y = {"upper right": (40, 10), "lower left": (8, 56)}[red]
    assert picture.getpixel((x, y))[0] > 200
    assert picture.getpixel((47 - x, 63 - y))[0] < 60


def test_a_damaged_video_names_itself(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(500))
    with pytest.raises(ImageError, match=r"a\.mp4"):
        list(frames(path))
    with pytest.raises(ImageError, match=r"a\.mp4"):
        video_info(path)


def test_a_video_cut_off_gives_its_first_frames(tmp_path):
    path = write(tmp_path / "a.mkv", number=100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    seen = 0
    with contextlib.suppress(ImageError):  # some forms say that the end is missing, some just end
        for _ in frames(path):
            seen += 1
    assert 0 < seen < 100


@pytest.mark.parametrize(
    "content", [b"", b"no video", b"#EXTM3U\n#EXTINF:10,\nhttp://localhost/a.ts\n#EXT-X-ENDLIST\n"]
)
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"not a video|damaged|empty"):
        list(frames(path))


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ImageError, match="no file"):
        list(frames(tmp_path / "none.mp4"))
    with pytest.raises(ImageError, match="cannot be read"):
        list(frames(tmp_path))


def test_large_frames_are_refused(tmp_path):
    path = write(tmp_path / "a.mp4")
    with pytest.raises(ImageError, match="--max-pixels 3072"):
        list(frames(path, ImageLimits(max_pixels=3071)))


def test_an_error_leaves_nothing_behind(tmp_path):
    def fail():
        with VideoWriter(tmp_path / "a.mp4", 10, (48, 64)) as video:
            video.write(image())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_frames_is_none(tmp_path):
    with pytest.raises(OutputError, match="without frames"), VideoWriter(tmp_path / "a.mp4", 10, (48, 64)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="64 x 48"), VideoWriter(tmp_path / "a.mp4", 10, (48, 64)) as video:
        video.write(image(size=(48, 64)))


@pytest.mark.parametrize(
    ("name", "fps", "size", "error", "says"),
    [
        ("a.mp5", 10, (8, 8), OutputError, "Did you mean"),
        ("a", 10, (8, 8), OutputError, "Add one"),
        ("a.mp4", 0, (8, 8), ConfigError, "above 0"),
        ("a.mp4", float("nan"), (8, 8), ConfigError, "above 0"),
        ("a.mp4", 10, (0, 8), ConfigError, "1 or more"),
    ],
)
def test_impossible_videos_are_refused(tmp_path, name, fps, size, error, says):
    with pytest.raises(error) as caught:
        VideoWriter(tmp_path / name, fps, size)
    assert says in str(caught.value)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"), VideoWriter(tmp_path / "file" / "a.mp4", 10, (8, 8)):
        pass


def test_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"dualtoken\[video\]"):
        list(frames(tmp_path / "a.mp4"))
    with pytest.raises(MissingExtraError, match=r"dualtoken\[video\]"):
        VideoWriter(tmp_path / "a.mp4", 10, (8, 8))


def test_names_of_videos():
    assert is_video("a/b.MP4")
    assert is_video("clip.webm")
    assert not is_video("a.gif")
    assert not is_video("mp4")
