"""The Debian package of a data set as a source: fetched with apt-get and unpacked without root.

Nothing is installed. idx.py reads the unpacked files, and those of an installed package.
"""

import logging
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path

from cgan_jax.checks import one_line
from cgan_jax.data.spec import Spec
from cgan_jax.errors import DataError

_log = logging.getLogger("cgan_jax")

_UPDATE_SECONDS = 120.0
_DOWNLOAD_SECONDS = 300.0
_MAX_BYTES = 1 << 28  # per member of the archive; the data sets have a tenth of that

# apt-get reads this after the system's own configuration: mirrors and proxies stay as they are,
# but everything it writes goes into our folder, and no hooks of the system run.
_APT_CONFIG = """\
#clear APT::Update;
APT::Update::Error-Mode "any";
Dir::State "{root}/state";
Dir::State::lists "{root}/state/lists";
Dir::State::status "{status}";
Dir::Cache "{root}/cache";
Dir::Log "{root}/log";
Acquire::Languages "none";
Acquire::Retries "0";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
Acquire::PDiffs "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
{sandbox}
"""


def fetch(spec: Spec, root: Path) -> Path:
    """Download the package with apt-get, which checks its signature, and unpack its idx files.

    Args:
        spec: the data set.
        root: an empty folder, where everything is written.

    Returns:
        the folder with the idx files.

    Raises:
        DataError: not a Debian-like system, no network, no such package, or a broken one.
        OSError: a program cannot be run, or a file cannot be written.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError("this system has no apt-get or no dpkg-deb")
    _log.info("fetching Debian's package %s with apt-get", spec.debian_package)
    package = _download(spec.debian_package, root)
    archive = package.with_suffix(".tar")
    if reason := _run(["dpkg-deb", "--fsys-tarfile", str(package)], root, 60.0, archive):
        raise DataError(f"dpkg-deb cannot read {package.name}: {reason}")
    return _unpack(spec, archive)


def _download(package: str, root: Path) -> Path:
    for folder in ("state/lists/partial", "cache/archives/partial", "log", "package"):
        (root / folder).mkdir(parents=True)
    status = Path("/var/lib/dpkg/status")
    if not status.is_file():
        status = root / "state/status"
        status.touch()
    # Run by root, apt-get would fetch as another user, who may not enter our folder.
    sandbox = 'APT::Sandbox::User "root";' if os.geteuid() == 0 else ""
    config = root / "apt.conf"
    config.write_text(_APT_CONFIG.format(root=root, status=status, sandbox=sandbox))
    apt = ["apt-get", f"--config-file={config}", "--quiet", "--quiet"]
    # The update of an unrelated archive may fail; only the download has to succeed.
    update = _run([*apt, "update"], root, _UPDATE_SECONDS)
    command = [*apt, "--option=Acquire::Retries=2", "download", package]
    download = _run(command, root / "package", _DOWNLOAD_SECONDS)
    packages = list((root / "package").glob("*.deb"))
    if download is not None or len(packages) != 1:
        reason = update or download or "it left no package"
        raise DataError(f"apt-get could not download {package}: {reason}")
    return packages[0]


def _unpack(spec: Spec, archive: Path) -> Path:
    """Copy the gzipped idx files out of the package's archive, into a folder beside it."""
    files = [f"{file.name}.gz" for split in spec.splits.values() for file in split]
    folder = archive.with_suffix("")
    folder.mkdir()
    try:
        # Only regular files of these full names are written, under names of ours: links and paths
        # that lead out of the archive do no harm.
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                parent, _, name = member.name.rpartition("/")
                wanted = parent == f".{spec.debian_dir}" and name in files
                if wanted and member.isreg() and member.size <= _MAX_BYTES:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    (folder / name).write_bytes(stream.read())
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{archive.name} does not hold a tar archive: {error}") from error
    if missing := [name for name in files if not (folder / name).exists()]:
        raise DataError(f"{archive.name} lacks {missing[0]}")
    return folder


def _run(command: list[str], cwd: Path, seconds: float, output: Path | None = None) -> str | None:
    """Run a command with a time limit: None on success, else the reason on one line."""
    with (
        open(output or os.devnull, "wb") as stdout,
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        ) as process,
    ):
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"no result after {seconds:.0f} s"
        finally:
            # The helpers of apt-get would outlive it, and Ctrl-C does not reach its session.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        stderr.seek(0)
        lines = stderr.read(1 << 16).decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("E:")] or lines or [f"exit status {status}"]
    return one_line(errors[0], 200) if status else None
