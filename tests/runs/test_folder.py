"""The run folder: what starts, what resumes, what is refused, and the table of losses."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cgan_jax.config import TrainConfig
from cgan_jax.errors import RunError
from cgan_jax.runs.folder import RunFolder, runs_in
from cgan_jax.runs.tables import append_losses, read_losses, rewind_losses

CONFIG, NAMES = TrainConfig(epochs=2), ("left", "right")


@pytest.fixture
def run(tmp_path):
    return RunFolder.start(tmp_path / "run", CONFIG, NAMES)


def test_open_returns_what_start_wrote(run):
    assert RunFolder.open(run.path) == run
    assert RunFolder.open(str(run.path)).class_names == NAMES
    saved = json.loads((run.path / "config.json").read_text())
    assert saved["environment"]["jax"]
    assert int(saved["environment"]["cores"]) > 0


def test_starting_again_resumes_and_may_make_the_run_longer(run):
    assert RunFolder.start(run.path, CONFIG, NAMES) == run
    longer = replace(CONFIG, epochs=5)
    RunFolder.start(run.path, longer, NAMES)
    assert RunFolder.open(run.path).config == longer
    RunFolder.start(run.path, CONFIG, NAMES)  # a smaller number takes nothing back
    assert RunFolder.open(run.path).config == longer


def test_resuming_elsewhere_is_a_warning(run, caplog):
    """The environment that the run began in stays on record; each start elsewhere warns."""
    RunFolder.start(run.path, CONFIG, NAMES)
    assert caplog.text == ""
    path = run.path / "config.json"
    saved = json.loads(path.read_text())
    saved["environment"] |= {"jax": "0.0.1", "cores": "96", "numpy": "0.1"}
    path.write_text(json.dumps(saved))
    for epochs in (2, 3, 3):
        caplog.clear()
        RunFolder.start(run.path, replace(CONFIG, epochs=epochs), NAMES)
        assert "jax: 0.0.1 -> " in caplog.text
        assert "cores: 96 -> " in caplog.text
        assert "numpy" not in caplog.text  # it computes nothing
        assert len(caplog.records) == 1
    del saved["environment"]  # as of a version before this was recorded
    path.write_text(json.dumps(saved))
    caplog.clear()
    RunFolder.start(run.path, CONFIG, NAMES)
    assert caplog.text == ""


def test_another_configuration_is_refused_with_the_fields_named(run):
    other = replace(CONFIG, seed=1, optimizer=replace(CONFIG.optimizer, lr=0.1))
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(RunError, match=r"seed: 0 -> 1; optimizer.lr: 0.0002 -> 0.1"):
        RunFolder.start(run.path, other, NAMES)
    assert (run.path / "config.json").read_bytes() == before


def test_resuming_with_other_data_is_refused(run):
    """Except for a run of a version that did not record its data."""
    images = {"name": "set", "n_images": 9, "sha256": "1"}
    others = images | {"sha256": "2"}
    assert RunFolder.start(run.path, CONFIG, NAMES, data=images).data == images
    longer = replace(CONFIG, epochs=3)
    RunFolder.start(run.path, longer, NAMES, data=images)
    assert RunFolder.open(run.path).data == images
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(RunError, match=r"other data: 9 images of set, SHA-256 1 -> 9 images of"):
        RunFolder.start(run.path, longer, NAMES, data=others)
    assert (run.path / "config.json").read_bytes() == before
    RunFolder.start(run.path, longer, NAMES)
    assert RunFolder.open(run.path).data == images
    RunFolder.start(run.path, longer, NAMES, resume=False, data=others)
    assert RunFolder.open(run.path).data == others


def test_renamed_data_with_the_same_images_are_resumed(run):
    """Under the name that the run began with; without a checksum a new name is another data set."""
    config = replace(CONFIG, dataset="photos")
    data = {"name": "photos", "n_images": 9, "sha256": "1"}
    path = run.path.with_name("other")
    RunFolder.start(path, config, NAMES, data=data)
    renamed = replace(config, dataset="pictures", epochs=5)
    assert RunFolder.check(path, renamed, data=data | {"name": "pictures"})
    resumed = RunFolder.start(path, renamed, NAMES, data=data | {"name": "pictures"})
    assert resumed == RunFolder.open(path)
    assert resumed.config == replace(config, epochs=5)
    assert resumed.data == data
    for others in (None, data | {"sha256": "2"}):
        with pytest.raises(RunError, match="dataset: photos -> pictures"):
            RunFolder.check(path, renamed, data=others)


def test_a_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder.start("~/run", CONFIG, NAMES).path == tmp_path / "run"
    assert RunFolder.open("~/run").path == tmp_path / "run"
    assert RunFolder.check("~/run", CONFIG)
    assert [run.path for run in runs_in([Path("~/run")])] == [tmp_path / "run"]
    assert os.listdir(tmp_path) == ["run"]


def test_not_resuming_moves_the_old_run_away(run):
    (run.path / "mine").write_text("trained for weeks")
    other = replace(CONFIG, seed=1)
    for number in (1, 2):
        RunFolder.start(run.path, other, NAMES, resume=False)
        assert RunFolder.open(run.path).config == other
        assert RunFolder.open(run.path.with_name(f"run.old-{number}"))
    assert (run.path.with_name("run.old-1") / "mine").read_text() == "trained for weeks"


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for resume in (True, False):
        with pytest.raises(RunError, match="other files"):
            RunFolder.start(tmp_path, CONFIG, NAMES, resume=resume)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="a file is in the way"):
            RunFolder.check(path, CONFIG)


def test_empty_or_missing_folder_can_be_used_and_check_creates_none(tmp_path):
    assert RunFolder.check(tmp_path, CONFIG) is None
    assert RunFolder.check(tmp_path / "a" / "b", CONFIG) is None
    assert not (tmp_path / "a").exists()
    assert RunFolder.start(tmp_path / "a" / "b", CONFIG, NAMES).path.is_dir()


def test_a_file_is_not_a_run_folder_and_a_folder_of_runs_names_one(tmp_path):
    RunFolder.start(tmp_path / "one", CONFIG, NAMES)
    with pytest.raises(RunError, match=r"no config\.json\nName a run's folder, such as .*one\."):
        RunFolder.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"no config\.json\nName a run's folder\."):
        RunFolder.open(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no config.json"),
        (b"\xff\xfe", "cannot be read"),
        (b"{", "cannot be read"),
        (b"[]", "not a run's"),
        (b"{}", "'format' is missing"),
        (b'{"format": 2}', "run format 2; expected 1"),
        (b'{"format": 1, "config": {}}', "'class_names' is missing"),
        (b'{"format": 1, "config": {}, "class_names": []}', "class_names"),
        (b'{"format": 1, "config": {"depth": 3}, "class_names": ["a"]}', "'depth'"),
        (b'{"format": 1, "config": {"epochs": 0}, "class_names": ["a"]}', "epochs"),
    ],
)
def test_a_damaged_config_is_named(tmp_path, content, named):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=named) as caught:
        RunFolder.open(tmp_path)
    assert len(str(caught.value).splitlines()) <= 3


def test_losses_table(run):
    """Rows of 5-step epochs; a run that trained on after its last save is rewound."""
    losses = np.random.default_rng(0).random((8, 2), np.float32)
    rewind_losses(run.losses, 0, 5)
    append_losses(run.losses, 0, 0, losses[:5])
    append_losses(run.losses, 1, 0, losses[5:])
    lines = run.losses.read_text().splitlines()
    assert lines[0] == "epoch,batch,d_loss,g_loss"
    assert [line.split(",")[:2] for line in lines[1:]] == [
        [str(step // 5), str(step % 5)] for step in range(8)
    ]
    np.testing.assert_array_equal(read_losses(run.losses).astype(np.float32), losses)

    whole = run.losses.read_text()
    run.losses.write_text(whole + "1,3,0.25")  # cut off in the middle of a row
    rewind_losses(run.losses, 6, 5)
    assert run.losses.read_text().splitlines() == lines[:7]
    append_losses(run.losses, 1, 1, losses[6:])
    assert run.losses.read_text() == whole


@pytest.mark.parametrize(
    "content",
    [b"epoch,batch,d_loss,g_loss\n0;0;1;2\n", b"\xff\xfe", b"head\n0,0,one,two\n", b"a\n0,0\n"],
)
def test_a_file_that_is_not_a_losses_table_is_refused_and_stays(run, content):
    """Before the first step, not when the plot is drawn of it."""
    run.losses.write_bytes(content)
    with pytest.raises(RunError, match=r"losses.csv cannot be read: .+\nexpected rows .+\nMove it"):
        rewind_losses(run.losses, 1, 5)
    assert run.losses.read_bytes() == content


def test_a_losses_table_that_lacks_rows_is_a_warning_and_stays(run, caplog):
    rewind_losses(run.losses, 0, 5)
    append_losses(run.losses, 0, 3, np.ones((4, 2), np.float32))
    rewind_losses(run.losses, 6, 5)
    assert "lacks rows: it has 3 of 6" in caplog.text
    rows = run.losses.read_text().splitlines()[1:]
    assert [row[:3] for row in rows] == ["0,3", "0,4", "0,5"]
