"""The project as a bare checkout has it, without what builds and tools have left beside it."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

TOP = Path(__file__).parents[1]
LEFT = (".git", ".hypothesis", "build", "dist", "*.egg-info")  # at the top
ANYWHERE = ("__pycache__", ".*_cache")


def copy_checkout(target: Path) -> Path:
    """Copy the checkout to a folder that is not there yet; return it."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        patterns = (*ANYWHERE, *(LEFT if Path(folder) == TOP else ()))
        return {name for name in names if any(fnmatch(name, one) for one in patterns)}

    return Path(shutil.copytree(TOP, target, ignore=ignored))
