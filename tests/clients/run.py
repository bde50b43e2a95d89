"""`make test-clients`: each client in its own version and its own folder, all at once against one server of its own.

The folders are kept in ``.clients``; what they need comes from the package indexes that pip and npm are set up for.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.serving import serving

PYTHON_VERSIONS = ("3.57.0", "2.46.0", "2.2.0")
NODE_VERSIONS = ("7.59.0", "6.49.0")
BROWSER_VERSIONS = ("1.65.1",)
"""Of playwright-core, which drives the browser."""
AXE_VERSION = "4.14.1"
HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".clients"
LIMIT_S = 150


def python_client(version: str, url: str) -> subprocess.CompletedProcess[str]:
    folder = FOLDER / f"openai-{version}"
    pip = (sys.executable, "-m", "pip", "install", "-qqq", "--disable-pip-version-check", "--target")
    _once(folder, (*pip, str(folder), f"openai=={version}"))
    env = {**os.environ, "PYTHONPATH": str(folder)}
    # Without this environment's own packages, among them another version of the same.
    command = (sys._base_executable, "-S", str(HERE / "openai_python.py"), url)  # type: ignore[attr-defined]
    return _finished(command, env=env)


def node_client(version: str, url: str) -> subprocess.CompletedProcess[str]:
    folder = FOLDER / f"openai-node-{version}"
    _once(folder, ("npm", "install", "--silent", "--no-audit", "--prefix", str(folder), f"openai@{version}"))
    return _finished(("node", str(HERE / "openai_js.mjs"), url), cwd=folder)


def browser_client(version: str, url: str) -> subprocess.CompletedProcess[str]:
    """The pages, in the Chromium of this machine."""
    folder, browser = FOLDER / "pages", chromium()
    if browser is None:
        return subprocess.CompletedProcess(
            (), 0, "Chromium is not installed: the pages are not tried in a browser\n", ""
        )
    packages = (f"playwright-core@{version}", f"axe-core@{AXE_VERSION}")
    _once(folder, ("npm", "install", "--silent", "--no-audit", "--prefix", str(folder), *packages))
    return _finished(("node", str(HERE / "pages_browser.mjs"), url.removesuffix("/v1"), browser), cwd=folder)


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def _once(folder: Path, command: tuple[str, ...]) -> None:
    """Install into a folder, unless that was done before, to its end."""
    done = folder / ".installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(command, check=True, timeout=LIMIT_S)
        done.touch()


def _finished(
    command: tuple[str, ...], *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def main() -> int:
    begun = time.monotonic()
    os.environ.setdefault("VGEN_IDLE_STEP_S", "0.1")
    clients = [(python_client, version) for version in PYTHON_VERSIONS]
    if shutil.which("node"):
        clients += [(node_client, version) for version in NODE_VERSIONS]
        clients += [(browser_client, version) for version in BROWSER_VERSIONS]
    elif os.environ.get("CI"):
        sys.stderr.write("node is missing: OpenAI's JavaScript library is not tried\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="vgen-clients-") as home, ThreadPoolExecutor(2) as pool:
        with serving(Path(home)) as served:
            url = f"{served.client.base_url}/v1".replace("//v1", "/v1")
            results = list(pool.map(lambda client: client[0](client[1], url), clients))
    for (call, version), result in zip(clients, results, strict=True):
        sys.stdout.write(result.stdout)
        if result.returncode != 0:
            sys.stdout.write(f"{call.__name__} {version} failed:\n{result.stderr[-4000:]}\n")
    sys.stdout.write(f"{len(clients)} clients in {time.monotonic() - begun:.0f} s\n")
    return int(any(result.returncode for result in results))


if __name__ == "__main__":
    sys.exit(main())
