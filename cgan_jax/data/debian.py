"""The Debian package of a data set as a source: fetched with apt-get and read without root.

Nothing is installed or unpacked. idx_files.py reads the files of an installed package.
"""

import io
import logging
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path

from cgan_jax.data import idx
from cgan_jax.data.idx_files import Arrays, verify
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


def fetch(spec: Spec) -> dict[str, Arrays]:
    """Download the package with apt-get, which checks its signature, and read it.

    Returns:
        Every split of the data set, verified, in the published order.

    Raises:
        DataError: not a Debian-like system, no network, no such package, or a broken one.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError("this system has no apt-get or no dpkg-deb")
    _log.info("fetching Debian's package %s with apt-get", spec.debian_package)
    try:
        with tempfile.TemporaryDirectory(prefix="cgan_jax-") as temporary:
            files = _read_package(spec, _download(spec.debian_package, Path(temporary)))
    except OSError as error:
        raise DataError(f"cannot run apt-get in a temporary folder: {error}") from error
    return {split: _parse(spec, split, files) for split in spec.splits}


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
    download = _run(
        [*apt, "--option=Acquire::Retries=2", "download", package],
        root / "package",
        _DOWNLOAD_SECONDS,
    )
    packages = list((root / "package").glob("*.deb"))
    if download is not None or len(packages) != 1:
        reason = update or download or "it left no package"
        raise DataError(f"apt-get could not download {package}: {reason}")
    return packages[0]


def _read_package(spec: Spec, package: Path) -> dict[str, bytes]:
    """The gzipped idx files of the package by name."""
    archive = package.with_suffix(".tar")
    if reason := _run(["dpkg-deb", "--fsys-tarfile", str(package)], package.parent, 60.0, archive):
        raise DataError(f"dpkg-deb cannot read {package.name}: {reason}")
    names = {
        f".{spec.debian_dir}/{file.name}.gz": file.name
        for split in spec.splits.values()
        for file in split
    }
    files = {}
    try:
        # Members are read into memory by their full names and never written to disk, so links
        # and paths that lead out of the archive do no harm.
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isreg() and member.name in names and member.size <= _MAX_BYTES:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    files[names[member.name]] = stream.read()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{package.name} does not hold a tar archive: {error}") from error
    if missing := sorted(set(names.values()) - set(files)):
        raise DataError(f"{package.name} lacks {missing[0]}.gz")
    return files


def _parse(spec: Spec, split: str, files: dict[str, bytes]) -> Arrays:
    where = f"the Debian package {spec.debian_package}"
    arrays = Arrays(
        *(
            idx.parse(io.BytesIO(files[file.name]), f"{file.name}.gz in {where}", file.shape)
            for file in spec.splits[split]
        )
    )
    verify(spec, split, arrays, where)
    return arrays


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
        if status == 0:
            return None
        stderr.seek(0)
        lines = stderr.read(1 << 16).decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("E:")] or lines
        return " ".join(errors[0].split())[:200] if errors else f"exit status {status}"
