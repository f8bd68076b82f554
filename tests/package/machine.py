"""A clean Debian with a systemd of its own, in a container that is thrown away."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The programs that this takes, and the packages that hold them.
TOOLS = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
SUITE = "bookworm"
START = 60
# How long packages may take to come, in seconds.
FETCH = 300


class Unable(Exception):
    """This machine cannot make or boot a clean one, whatever the package is like."""


def prepare():
    """Sees to the tools."""
    if os.geteuid() != 0:
        raise Unable("only root can make a clean root and boot it")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing and os.environ.get("CI"):
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for command in (["update", "-qq"], ["install", "-y", "-qq", *missing]):
            if not succeeds(["apt-get", *command], env=environment):
                raise Unable(f"apt-get does not install {' '.join(missing)}")
    elif missing:
        raise Unable(f"apt-get install {' '.join(missing)}")


def succeeds(command, **how):
    """Whether a command that needs the network succeeds, and in time."""
    try:
        return subprocess.run(command, timeout=FETCH, **how).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def eventually(what, look, patience=START):
    """Looks again and again until there is something to see."""
    end = time.monotonic() + patience
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(0.1)


class Machine:
    """A booted machine, which is removed at the end of its `with` block."""

    def __init__(self, packages):
        self.packages = packages

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="presenced-machine-")
        self.root = Path(self.folder.name) / "root"
        made = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--include=systemd-sysv",
            SUITE,
            str(self.root),
        ]
        if not succeeds(made, stdout=sys.stderr):
            self.folder.cleanup()
            raise Unable("mmdebstrap does not make a clean root here")
        (self.root / "packages").mkdir()
        for package in self.packages:
            shutil.copy(package, self.root / "packages")
        boot = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"]
        boot += [f"--machine=presenced-{os.getpid()}", f"--directory={self.root}"]
        self.log = open(Path(self.folder.name) / "boot.log", "wb")
        self.boot = subprocess.Popen(
            boot, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        try:
            self.leader = eventually("the machine boots", self._leader)
            eventually("systemd is there", self._runs)
        except AssertionError as error:
            self.__exit__()
            raise Unable(f"a clean root does not boot here: {error}") from error
        return self

    def __exit__(self, *error):
        if error and error[0]:
            print(
                self.tell("journalctl", "--no-pager", "-n", "80", "-u", "presenced*"),
                file=sys.stderr,
            )
        self.boot.terminate()
        try:
            self.boot.wait(30)
        except subprocess.TimeoutExpired:
            self.boot.kill()
            self.boot.wait()
        self.log.close()
        self.folder.cleanup()

    def _runs(self):
        return self.tell("systemctl", "is-system-running").strip() in ("running", "degraded")

    def _leader(self):
        """The first process of the machine, as this one sees it."""
        if self.boot.poll() is not None:
            raise AssertionError(f"the machine does not boot: {Path(self.log.name).read_text()}")
        children = Path(f"/proc/{self.boot.pid}/task/{self.boot.pid}/children").read_text().split()
        return children[0] if children else None

    def _run(self, command):
        inside = ["nsenter", "--target", self.leader]
        inside += ["--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        environment["DEBIAN_FRONTEND"] = "noninteractive"
        return subprocess.run(
            [*inside, *command], capture_output=True, text=True, env=environment, timeout=120
        )

    def tell(self, *command):
        """What a command says, whether it succeeds or not."""
        return self._run(command).stdout

    def do(self, *command):
        """A command that must succeed."""
        done = self._run(command)
        assert done.returncode == 0, (
            f"{' '.join(command)}: {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done.stdout

    def fails(self, *command):
        done = self._run(command)
        assert done.returncode != 0, f"{' '.join(command)} succeeded: {done.stdout}"
        return done.returncode, done.stdout + done.stderr

    def write(self, path, text, mode=0o644):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def shows(self, unit, *names):
        """Properties of a unit."""
        shown = self.do("systemctl", "show", unit, *(f"--property={name}" for name in names))
        values = dict(line.split("=", 1) for line in shown.splitlines())
        return [values[name] for name in names]
