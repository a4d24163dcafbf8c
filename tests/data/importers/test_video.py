"""Videos through PyAV: frames, ranges of frames, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from published_datasets import frames_of, short_gop_video, video_bytes

from jepawm.data.video import VideoInfo, iter_video, read_video, video_info
from jepawm.errors import DataError

av = pytest.importorskip("av")


def test_frames_info_and_bytes(tmp_path):
    frames = frames_of(0, 12)
    data = video_bytes(frames, fps=25)
    (tmp_path / "v.mp4").write_bytes(data)
    for source in (tmp_path / "v.mp4", str(tmp_path / "v.mp4"), data):
        found, fps = read_video(source, what="v")
        assert fps == 25
        assert found.shape == frames.shape
        assert np.abs(found.astype(int) - frames).mean() < 2
        assert video_info(source, what="v") == VideoInfo(12, 32, 32, 25.0, "h264")


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_range_is_the_same_part_of_the_whole(codec):
    # Key frames every five frames, so that a range begins between two of them.
    frames = frames_of(1, 23)
    data = short_gop_video(frames, codec)
    whole, _ = read_video(data, what="v")
    for start, stop in ((0, 3), (4, 9), (5, 10), (11, None), (22, 23)):
        part, _ = read_video(data, what="v", start=start, stop=stop)
        np.testing.assert_array_equal(part, whole[start:stop])
    assert len(list(iter_video(data, what="v", stop=2))) == 2
    with pytest.raises(DataError, match="v: frames 20 to 24 were asked for, the video has 23"):
        read_video(data, what="v", start=20, stop=24)
    with pytest.raises(DataError, match="v: frames 0 to 24 were asked for, the video has 23"):
        read_video(data, what="v", stop=24)
    with pytest.raises(DataError, match="v: frames from 40 on were asked for, the video has fewer"):
        read_video(data, what="v", start=40)
    with pytest.raises(DataError, match="v: frames 3 to 3 are no range"):
        read_video(data, what="v", start=3, stop=3)


def test_a_varying_frame_rate_has_no_ranges():
    data = short_gop_video(frames_of(0, 9), "libx264", times=(0, 1, 2, 3, 7, 8, 9, 10, 11))
    assert len(read_video(data, what="v")[0]) == 9
    with pytest.raises(DataError, match=r"v: its frame rate varies .*encode it anew with a constant rate"):
        read_video(data, what="v", start=1)


def test_what_is_no_video_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the clip: no such file: .*none\.mp4"):
        video_info(tmp_path / "none.mp4", what="the clip")
    noise = np.random.default_rng(0).integers(0, 255, size=(12, 64, 64, 3), dtype=np.uint8)
    data = video_bytes(noise, movflags="faststart")
    with pytest.raises(DataError, match=r"v: not a video that can be read, or a damaged one: .*copy it again"):
        read_video(data[: len(data) // 2], what="v")
    with pytest.raises(DataError, match=r"v: PyAV has no decoder for its codec; encode it anew"):
        read_video(data.replace(b"avc1", b"zzzz"), what="v")
    with pytest.raises(DataError, match="v: PyAV has no decoder"):
        video_info(data.replace(b"avc1", b"zzzz"), what="v")
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="the sound: the file holds no video"):
        video_info(sound, what="the sound")


def test_a_video_cut_short_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, size=(12, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "v.mp4"
    # The index comes first in the file, so that what is left of it still opens.
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        ends = []
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    for cut in (ends[6] - 100, ends[6]):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"clip: (the video is cut short|7 of its 12 frames|not a video that)"):
            read_video(path, what="clip")


def test_av1_of_a_real_robot(shared: Path):
    videos = sorted((shared / "data" / "g1_lerobot" / "videos").rglob("*.mp4"))
    assert videos
    info = video_info(videos[0], what="g1")
    assert (info.codec, info.fps) == ("av1", 30.0)
    last, _ = read_video(videos[0], what="g1", start=info.num_frames - 3)
    assert last.shape == (3, info.height, info.width, 3)
    assert 20 < last.mean() < 235
