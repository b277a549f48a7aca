"""The frames of an animation of a run's training, from its sample grids."""

from PIL import Image, ImageDraw, ImageFont

from cgan_jax.checks import one_line
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.pictures.grids import MARGIN, grid, shown_classes, tiles
from cgan_jax.runs.folder import RunFolder

CAPTION_SIZE = 20


def progress_pictures(run: RunFolder, rows: int) -> list[Image.Image]:
    """A run's sample grids in the order of its epochs, the epoch's number above each.

    Args:
        run: the run folder.
        rows: at most this many of a grid's rows, one per latent point, from the top.

    Returns:
        RGB pictures of one size.

    Raises:
        RunError: there is none, or one cannot be read.
    """
    files = run.sample_grids()
    if not files:
        raise RunError(
            f"{run.path} has no sample grids\nexpected samples/epoch_0001.png and the like\n"
            "Train it for an epoch, or name another run's folder."
        )
    captions = {epoch: f"epoch {epoch} of {max(files)}" for epoch in files}
    font = ImageFont.load_default(CAPTION_SIZE)
    caption_width = max(round(font.getlength(text)) + 2 * MARGIN for text in captions.values())
    height, width, _ = run.config.model.image_shape
    names = [run.class_names[label] for label in shown_classes(len(run.class_names))]
    pictures: list[Image.Image] = []
    for epoch, file in files.items():
        try:
            with Image.open(file) as opened:
                whole = opened.convert("RGB")
            top = grid(tiles(whole, len(names), height, width)[:rows], names)
        except ConfigError as error:
            raise RunError(
                f"{file} is {whole.width}x{whole.height} pixels\n"
                "expected the size of a sample grid of this run\n"
                "Put back the picture that the run wrote, or delete this one."
            ) from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise RunError(
                f"{file} cannot be read: {one_line(error)}\n"
                "expected a PNG picture that you may read\nPut it back, or delete it."
            ) from error
        size = (max(top.width, caption_width), CAPTION_SIZE + top.height)
        picture = Image.new("RGB", pictures[0].size if pictures else size, "white")
        picture.paste(top, (0, CAPTION_SIZE))
        place = (MARGIN, MARGIN // 2)
        ImageDraw.Draw(picture).text(place, captions[epoch], "black", font, "lt")
        pictures.append(picture)
    return pictures
