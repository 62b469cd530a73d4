"""Puts the wheel together: `fixtures` and `bench_suites` go into `harness`, and `training` stays out.

Other distributions install packages named `fixtures` and `training`. An editable install leaves everything
where it is.
"""

from __future__ import annotations

from setuptools.command.build_py import build_py

INTO = "harness"
INSIDE = ("fixtures", "bench_suites")
"""Top-level folders that the wheel holds inside `INTO`."""


class BuildPy(build_py):
    """Builds the packages under the names that they have in the wheel."""

    def run(self) -> None:
        """Copy them; an editable install copies nothing."""
        if not self.editable_mode:
            moved = {name: f"{INTO}.{name}" for name in INSIDE}
            kept = [name for name in self.packages if name.split(".")[0] == INTO]
            self.packages = [*kept, *moved.values()]
            self.package_dir = {**(self.package_dir or {}), **{new: old for old, new in moved.items()}}
            self.package_data = {moved.get(name, name): files for name, files in self.package_data.items()}
        super().run()
