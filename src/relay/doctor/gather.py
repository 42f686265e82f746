"""Gathering the facts, once, from what is there: nothing is made, migrated, repaired or written."""

import asyncio
import os
import shutil
import sqlite3
import ssl
import stat
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from relay.core.clock import MICROSECONDS, now
from relay.doctor.facts import Backups, Entry, Facts, Folder, Machine
from relay.doctor.look import Looked, Verify, look
from relay.engine import build_catalog
from relay.llm.choice import choices
from relay.settings import Settings, SettingsError, load_settings
from relay.settings.safety import refusals
from relay.store.target import Target, parse_target

MOST_ENTRIES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Running:
    """What a running server knows better than whoever looks at it: whether its log holds, and whether Redis answers."""

    settings: Settings
    verify: Verify
    redis: Callable[[], Awaitable[bool]]


async def gather(running: Running | None = None) -> Facts:
    """Return the facts about the installation that the settings name.

    Settings that are refused are one of the facts, and whatever does not answer leaves its own facts out and no others.
    A server looks at itself with ``running``; otherwise the environment's settings are read and all is found out here.
    """
    try:
        settings = load_settings() if running is None else running.settings
    except SettingsError as error:
        machine = await asyncio.to_thread(_machine, Path("/"))
        return Facts(now(), tuple(error.problems), machine, "the settings are refused")
    machine, folder, backups = await asyncio.to_thread(_files, settings)
    target, problems = _accepted(settings, building=running is None)
    looked = (
        Looked("DATABASE_URL is refused")
        if target is None
        else await look(target, settings, None if running is None else running.verify)
    )
    return Facts(
        at=now(),
        problems=tuple(problems),
        machine=machine,
        settings_seen=settings,
        redis_answers=await _redis_answers(settings, None if running is None else running.redis),
        folder_seen=folder,
        backups_seen=backups,
        database_seen=looked.database,
        postgres_seen=looked.postgres,
        store_seen=looked.store,
    )


def _accepted(settings: Settings, *, building: bool) -> tuple[Target | None, list[str]]:
    """Return the database that is meant, and why a server would not start with these settings.

    Some of that shows when clients and actions are built, which a server has done.
    """
    problems, target, url = refusals(settings), None, settings.database_url
    try:
        target = parse_target(url.get_secret_value() if url else None, settings.data_dir)
    except ValueError as error:
        problems.append(str(error))
    try:
        if building:
            build_catalog(settings, (settings.host, settings.port))
    except SettingsError as error:
        problems.extend(error.problems)
    try:
        if building:
            choices(settings)
    except SettingsError as error:
        problems.extend(error.problems)
    return target, problems


def _files(settings: Settings) -> tuple[Machine, Folder | str, Backups | str]:
    folder = settings.data_dir
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    named = settings.backup_folder
    return _machine(place), _folder(folder), "BACKUP_FOLDER is not set" if named is None else _backups(named)


def _machine(place: Path) -> Machine:
    files = os.statvfs(place)
    return Machine(
        today=datetime.now(UTC).date(),
        python=sys.version_info[:2],
        sqlite=sqlite3.sqlite_version_info,
        openssl=ssl.OPENSSL_VERSION_INFO[:2],
        free_bytes=shutil.disk_usage(place).free,
        # Some file systems count no files.
        free_files=files.f_favail / files.f_files if files.f_files else 1.0,
    )


def _folder(path: Path) -> Folder | str:
    try:
        status = path.stat()
        entries = tuple(_entries(path))
    except FileNotFoundError:
        return f"there is no data folder at {path} yet"
    except OSError as error:
        return f"{path} cannot be looked into: {error.strerror}"
    return Folder(path, stat.S_IMODE(status.st_mode), status.st_uid, os.geteuid(), entries)


def _entries(top: Path) -> list[Entry]:
    """Return what stands in a folder and below, links left out: what they point to has its own name somewhere."""
    found: list[Entry] = []
    for folder, folders, files in os.walk(top):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if not stat.S_ISLNK(status.st_mode):
                found.append(Entry(str(path.relative_to(top)), stat.S_IMODE(status.st_mode), status.st_uid))
            if len(found) >= MOST_ENTRIES:
                return found
    return found


def _backups(path: Path) -> Backups:
    try:
        files = [(entry.name, entry.stat()) for entry in os.scandir(path) if entry.is_file(follow_symlinks=False)]
    except OSError:
        return Backups(exists=False)
    exposed = tuple(sorted(name for name, status in files if stat.S_IMODE(status.st_mode) & 0o077))
    newest = max((status for _, status in files), key=lambda status: status.st_mtime, default=None)
    if newest is None:
        return Backups(exists=True)
    age = max(0.0, now() / MICROSECONDS - newest.st_mtime)
    return Backups(exists=True, newest_age=age, newest_size=newest.st_size, exposed=exposed)


async def _redis_answers(settings: Settings, given: Callable[[], Awaitable[bool]] | None) -> bool | None:
    if settings.redis_url is None:
        return None
    if given is not None:
        return await given()
    from relay.limits.link import RedisLink  # not at the top: without Redis its client is never needed

    link = RedisLink(settings.redis_url.get_secret_value(), lambda _: None)
    await link.start()
    try:
        return link.up
    finally:
        await link.stop()
