"""A trained run in your browser: pictures of a class, and the path from one class to another.

python -m experiments.demo runs/fashion_cgan
"""

import contextlib
import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cgan_jax.checks import check_int_field, one_line, short_repr
from cgan_jax.errors import CGANError, ConfigError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.training.stop_signals import StopSignals
from experiments.shared.choice import NEWEST, CheckpointFlags
from experiments.shared.command_line import parse, run

if TYPE_CHECKING:
    from cgan_jax.sampling.generator import TrainedGenerator

MODULE = "experiments.demo"
TRUNCATIONS = {"none": None, "2": 2.0, "1": 1.0, "0.5": 0.5}  # few, as each is compiled
MORPH_ROWS, MORPH_FRAMES = 6, 9


@dataclass(frozen=True)
class Flags:
    """Show a trained run in your browser. Needs the extra `demo`; nothing leaves this machine.

    Examples:
      python -m experiments.demo runs/fashion_cgan
      python -m experiments.demo runs/fashion_cgan --port 8000
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder."""
    port: int = 7860
    """The port to listen on."""
    host: str = "127.0.0.1"
    """The address of this machine to listen on. By default only this machine can connect; with
    0.0.0.0, so can everyone who can reach it."""
    checkpoint: CheckpointFlags = NEWEST

    def check(self) -> None:
        """Raises ConfigError for a port out of range, or flags that do not go together."""
        self.checkpoint.check()
        check_int_field(self, "port", 1, 65535)


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    folder = RunFolder.open(flags.run)
    with (
        listen(flags.host, flags.port) as place,
        tempfile.TemporaryDirectory(prefix="cgan_jax_demo_") as pictures,
        StopSignals().listening() as stop,
    ):
        gradio = import_gradio(pictures)
        generator = flags.checkpoint.load(folder)
        app = page(gradio, generator, flags.run.resolve().name)
        host = f"[{flags.host}]" if ":" in flags.host else flags.host
        print(f"To see {flags.run}, open http://{host}:{flags.port} (Ctrl-C ends it)", flush=True)
        if not stop():
            serve(gradio, app, place)
    if stop.caught:
        raise SystemExit(128 + stop.caught)


def import_gradio(pictures: str) -> Any:
    """The library of the page, set to send nothing to anybody.

    Args:
        pictures: a folder for the pictures that it serves.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": pictures}
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(
            "the demo needs Gradio, which is not installed\nexpected the extra `demo`\n"
            "Install it with `pip install -e '.[demo]'`."
        ) from error
    return gradio


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address.

    Raises:
        ConfigError: the port is in use, or the address is not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use\nexpected a free one\nGive another --port."
            ) from error
        raise ConfigError(
            f"nothing can listen on {short_repr(host)}, port {port}: {one_line(error)}\n"
            "expected an address of this machine, and a port that you may use\n"
            "Give another --host or --port."
        ) from error


def serve(gradio: Any, app: Any, place: socket.socket) -> None:
    """Answer browsers until a signal to stop, which uvicorn raises again when it is done."""
    import fastapi
    import uvicorn

    # app.launch() would request its own address, through a proxy if one is set, and may fail.
    mounted = gradio.mount_gradio_app(
        fastapi.FastAPI(), app, path="", footer_links=[], run_history=False, ssr_mode=False
    )
    config = uvicorn.Config(mounted, log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run([place])


def page(gr: Any, generator: "TrainedGenerator", title: str) -> Any:
    """The page: one tab for the pictures of a class, one for the path between two classes.

    Args:
        gr: the library gradio.
        generator: the trained generator.
        title: the run's name.
    """
    names = generator.class_names
    draw_class, draw_path = drawing_functions(gr, generator)

    def class_choice(label: str, value: int) -> Any:
        # By number, since two classes may have the same name.
        choices = [(name, i) for i, name in enumerate(names)]
        return gr.Dropdown(choices, value=value, label=label)

    def latent_choice() -> list[Any]:
        info = "The smaller, the more typical the pictures, and the more alike"
        return [
            gr.Number(0, label="Seed", info="Of the latent points", precision=0, minimum=0),
            gr.Radio(list(TRUNCATIONS), value="none", label="Truncation", info=info),
        ]

    def picture(label: str) -> Any:
        # Neither a label nor buttons, which would cover the names in the picture.
        return gr.Image(label=label, show_label=False, buttons=[], format="png", interactive=False)

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown(f"# {title}\nAfter {generator.step:,} steps of training.")
        with gr.Tab("Pictures of a class"), gr.Row():
            with gr.Column(scale=1):
                class_inputs = [class_choice("Class", 0)]
                class_inputs.append(gr.Slider(1, 64, value=16, step=1, label="How many"))
                class_inputs += latent_choice()
                draw = gr.Button("Draw", variant="primary")
            with gr.Column(scale=2):
                class_picture = picture("Pictures of the class")
        with gr.Tab("From class to class"), gr.Row():
            with gr.Column(scale=1):
                path_inputs = [class_choice("From", 0), class_choice("To", len(names) - 1)]
                path_inputs += latent_choice()
                go = gr.Button("Go", variant="primary")
            with gr.Column(scale=2):
                path_picture = picture("The path from class to class, one row per latent point")
        # A click during the first drawing waits for its turn.
        queued: Any = {"trigger_mode": "always_last"}
        class_events, path_events = [app.load, draw.click], [app.load, go.click]
        gr.on(class_events, draw_class, class_inputs, class_picture, api_name="pictures", **queued)
        gr.on(path_events, draw_path, path_inputs, path_picture, api_name="way", **queued)
    return app


def drawing_functions(
    gr: Any, generator: "TrainedGenerator"
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The functions behind the two tabs, from the values of their fields to a picture.

    The generator checks the seed, which is None if the field is empty.
    """
    from cgan_jax.pictures.gif import strip_picture
    from cgan_jax.pictures.grids import grid
    from experiments.shared.choice import square

    names = generator.class_names

    def draw_class(label: int, n: int, seed: Any, truncation: str) -> Any:
        limit = TRUNCATIONS[truncation]
        with errors_on_page(gr):
            images = generator.generate(label, n=n, seed=seed, truncation=limit)
        return grid(*square(images, names[label]))

    def draw_path(start: int, end: int, seed: Any, truncation: str) -> Any:
        sizes, limit = {"n": MORPH_ROWS, "frames": MORPH_FRAMES}, TRUNCATIONS[truncation]
        with errors_on_page(gr):
            frames = generator.morph(start, end, seed=seed, truncation=limit, **sizes)
        return strip_picture(frames, names[start], names[end])

    return draw_class, draw_path


@contextlib.contextmanager
def errors_on_page(gr: Any) -> Iterator[None]:
    """Show the library's errors, as of a wrong seed, on the page."""
    try:
        yield
    except CGANError as error:
        raise gr.Error(str(error), print_exception=False) from error


if __name__ == "__main__":
    run(main)
