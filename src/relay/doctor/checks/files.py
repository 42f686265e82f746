"""Who else on the machine can read what Relay keeps."""

from relay.doctor.check import some
from relay.doctor.facts import Facts

_OTHERS = 0o077


def data_folder(facts: Facts) -> str | None:
    """Nobody but Relay's user can enter the data folder, or read or change anything in it."""
    folder = facts.folder
    if folder.owner not in (folder.us, 0) and folder.us != 0:
        return f"{folder.path} belongs to user {folder.owner}, not to the one that asks ({folder.us})"
    if folder.mode & _OTHERS:
        return f"{folder.path} has mode {folder.mode:04o}"
    foreign = [entry.name for entry in folder.entries if entry.owner != folder.owner]
    if foreign:
        return f"in {folder.path}, of another owner: {some(foreign)}"
    exposed = [f"{entry.name} ({entry.mode:04o})" for entry in folder.entries if entry.mode & _OTHERS]
    return f"in {folder.path}, open to others: {some(exposed)}" if exposed else None


def backups(facts: Facts) -> str | None:
    """There is a backup, it is new, and it lies elsewhere."""
    settings = facts.settings
    folder = settings.backup_folder
    if folder is None:
        return "BACKUP_FOLDER is not set, so that nobody can say whether there are backups"
    found = facts.backups
    if not found.exists:
        return f"{folder} is not a folder that can be read"
    if folder.resolve().is_relative_to(settings.data_dir.resolve()):
        return f"{folder} lies in the data folder: what takes the one takes the other"
    if found.newest_age is None or not found.newest_size:
        return f"{folder} holds no backup that is not empty"
    hours = found.newest_age / 3600
    if hours > settings.backup_max_age_hours:
        return f"the newest backup in {folder} is {hours:.0f} hours old"
    return f"open to others in {folder}: {some(found.exposed)}" if found.exposed else None


def disk_space(facts: Facts) -> str | None:
    """There is room for what has to be written before anything may run."""
    machine = facts.machine
    if machine.free_bytes < 512 * 1024 * 1024:
        return f"{machine.free_bytes // (1024 * 1024)} MiB are free where the data folder is"
    return (
        "fewer than 1 % of the files that the data folder's disk can hold are free"
        if machine.free_files < 0.01
        else None
    )
