"""`relay serve --reload`: a change of the code starts the server anew, in `local` only."""

import shutil
from pathlib import Path

import psutil

import relay
from tests.process import eventually, gateway_process


async def test_a_changed_file_restarts_the_server(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(Path(relay.__file__).parent, source / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    env = {"RELAY_ENV": "local", "PYTHONPATH": str(source), "RELAY_PORT": "0"}
    async with gateway_process(tmp_path / "home", env=env, args=("--reload",)) as gateway, gateway.client() as client:
        assert (await client.get("/version")).body["version"] == relay.__version__
        changed = source / "relay" / "__init__.py"
        changed.write_text(changed.read_text().replace(relay.__version__, "9.9.9"))
        await eventually(lambda: _listens_again(gateway.out), 30)
        assert "process already dead" not in gateway.log
        gateway.url = gateway.out.rpartition("relay listens on ")[2].partition(" ")[0]
        assert (await client.get("/version")).body["version"] == "9.9.9"
        assert gateway.out.count("    relay_sk_") == 1  # the first key is not made, or shown, again
        living = [child for child in psutil.Process(gateway.pid).children() if child.status() != "zombie"]
        [serving] = [child for child in living if "spawn_main" in " ".join(child.cmdline())]
        gateway.kill()
        await eventually(lambda: _ended(serving), 30)


async def _ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == "zombie"


async def _listens_again(out: str) -> bool:
    return out.count("relay listens on ") >= 2


async def test_it_is_for_local_alone(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, start=False) as gateway:
        ended = await gateway.command("serve", "--reload", "--port", "0")
    assert ended.returncode == 2
    assert "RELAY_ENV=local" in ended.stderr
