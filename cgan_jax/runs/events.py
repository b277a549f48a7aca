"""TensorBoard event files, without TensorFlow."""

import os
import sys
import time
from pathlib import Path

from PIL import Image

# tensorboardX tries to import PyTorch, which takes seconds, for what is not used here.
_hides_torch = sys.modules.setdefault("torch", None) is None  # type: ignore[arg-type]
try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
finally:
    if _hides_torch:
        del sys.modules["torch"]


class EventFile:
    """Writes each event when it is given, and raises what the system says of it.

    tensorboardX's own SummaryWriter leaves that to a thread, which on a full disk dies with a
    traceback, and the program then waits for it forever.

    Args:
        folder: where TensorBoard looks.
        purge_step: events of earlier files at this step or later are no longer shown.

    Raises:
        OSError: a file cannot be written; so do all methods.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(exist_ok=True)
        # The process's number, since two files may be begun within a second.
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{os.getpid()}")
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, tag: str, value: float, step: int) -> None:
        """A number after so many steps."""
        self._summarise(Summary.Value(tag=tag, simple_value=value), step)

    def picture(self, tag: str, png: Path, step: int) -> None:
        """A PNG file after so many steps."""
        with Image.open(png) as image:
            width, height = image.size
        shown = Summary.Image(height=height, width=width, encoded_image_string=png.read_bytes())
        self._summarise(Summary.Value(tag=tag, image=shown), step)

    def flush(self) -> None:
        """Let TensorBoard see what was written."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _summarise(self, value: Summary.Value, step: int) -> None:
        self._write(Event(step=step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
