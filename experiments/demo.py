"""A trained run in your browser: pictures of a class, and the path from one class to another.

python -m experiments.demo runs/fashion_cgan
"""

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cgan_jax.checks import Range, errors_as, short_repr
from cgan_jax.errors import CGANError, ConfigError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.training.stop_signals import StopSignals
from experiments.shared.choice import NEWEST, Checkpoint
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
    port: Annotated[int, Range(1, 65535)] = 7860
    """The port to listen on."""
    host: str = "127.0.0.1"
    """The address of this machine to listen on. By default only this machine can connect; with
    0.0.0.0, so can everyone who can reach it."""
    checkpoint: Checkpoint = NEWEST


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.checkpoint.check()
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
    then = "expected the extra `demo`\nInstall it with `pip install -e '.[demo]'`."
    with errors_as(ConfigError, "the demo needs Gradio, which is not installed", then, ImportError):
        import gradio
    return gradio


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address.

    Raises:
        ConfigError: the port is in use, or the address is not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    what = f"nothing can listen on {short_repr(host)}, port {port}"
    then = (
        "expected an address of this machine, and a free port that you may use\n"
        "Give another --host or --port."
    )
    with errors_as(ConfigError, what, then, OSError):
        return socket.create_server((host, port), family=family)


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
    # By number, since two classes may have the same name.
    classes = [(name, i) for i, name in enumerate(generator.class_names)]
    points = "Of the latent points"
    typical = "The smaller, the more typical the pictures, and the more alike"

    def class_choice(label: str, value: int) -> Any:
        return gr.Dropdown(classes, value=value, label=label, render=False)

    def tab(name: str, inputs: list[Any], button: str, draw: Callable[..., Any]) -> None:
        with gr.Tab(name), gr.Row():
            with gr.Column(scale=1):
                for field in inputs:
                    field.render()
                seed = gr.Number(0, label="Seed", info=points, precision=0, minimum=0)
                limit = gr.Radio(list(TRUNCATIONS), value="none", label="Truncation", info=typical)
                click = gr.Button(button, variant="primary").click
            with gr.Column(scale=2):
                # Neither a label nor buttons, which would cover the names in the picture.
                options: Any = {"show_label": False, "buttons": [], "interactive": False}
                picture = gr.Image(label=name, format="png", **options)
        # A click during the first drawing waits for its turn.
        fields = [*inputs, seed, limit]
        gr.on([app.load, click], draw, fields, picture, trigger_mode="always_last")

    draw_class, draw_path = drawing_functions(gr, generator)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown(f"# {title}\nAfter {generator.step:,} steps of training.")
        number = gr.Slider(1, 64, value=16, step=1, label="How many", render=False)
        ends = [class_choice("From", 0), class_choice("To", len(classes) - 1)]
        # Gradio's default hides a tab behind a menu where it measures too little room for it, and
        # measures before its fonts have loaded.
        with gr.Tabs(overflow_behavior="wrap"):
            tab("Pictures of a class", [class_choice("Class", 0), number], "Draw", draw_class)
            tab("From class to class", ends, "Go", draw_path)
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

    def pictures(label: int, n: int, seed: Any, truncation: str) -> Any:
        limit = TRUNCATIONS[truncation]
        with errors_on_page(gr):
            images = generator.generate(label, n=n, seed=seed, truncation=limit)
        return grid(*square(images, names[label]))

    def way(start: int, end: int, seed: Any, truncation: str) -> Any:
        sizes, limit = {"n": MORPH_ROWS, "frames": MORPH_FRAMES}, TRUNCATIONS[truncation]
        with errors_on_page(gr):
            frames = generator.morph(start, end, seed=seed, truncation=limit, **sizes)
        return strip_picture(frames, names[start], names[end])

    return pictures, way


@contextlib.contextmanager
def errors_on_page(gr: Any) -> Iterator[None]:
    """Show the library's errors, as of a wrong seed, on the page."""
    try:
        yield
    except CGANError as error:
        raise gr.Error(str(error), print_exception=False) from error


if __name__ == "__main__":
    run(main)
