"""Event files: read back with tensorboardX's own messages and checksums."""

import struct
import subprocess
import sys

import pytest
from PIL import Image

from cgan_jax.runs.events import EventFile


def read(path):
    """The events of a file, whose checksums are right."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    def masked(data):
        crc = crc32c(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event, rest = data[12 : 12 + length], data[12 + length :]
        assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
        assert struct.unpack("<I", rest[:4])[0] == masked(event)
        events.append(Event.FromString(event))
        data = rest[4:]
    return events


def test_events_are_what_was_written(tmp_path):
    Image.new("RGB", (300, 7), "red").save(tmp_path / "x.png")
    file = EventFile(tmp_path / "events", purge_step=187_600)
    file.scalar("loss/generator", -0.1, 2**31 - 1)
    file.picture("samples", tmp_path / "x.png", 0)
    file.flush()
    (path,) = (tmp_path / "events").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    version, start, scalar, picture = read(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (187_600, 1)
    assert scalar.step == 2**31 - 1
    (value,) = scalar.summary.value
    assert (value.tag, value.simple_value) == ("loss/generator", pytest.approx(-0.1))
    (value,) = picture.summary.value
    assert (picture.step, value.tag) == (0, "samples")
    assert (value.image.height, value.image.width) == (7, 300)
    assert value.image.encoded_image_string == (tmp_path / "x.png").read_bytes()
    assert 0 < version.wall_time <= picture.wall_time


def test_two_files_of_one_process_do_not_overwrite_each_other(tmp_path):
    for step in (0, 6):
        EventFile(tmp_path / "events", purge_step=step)
    assert sorted(read(path)[1].step for path in (tmp_path / "events").iterdir()) == [0, 6]


def test_torch_is_left_alone():
    script = "import sys, cgan_jax.runs.events; assert 'torch' not in sys.modules; print('good')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "good\n", done.stderr
