"""What pyproject.toml cannot say: the long description, and which wheels are for one platform only."""

import re
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

HERE = Path(__file__).parent
PREBUILT = HERE / "ms_codegeex" / "kernels" / "prebuilt"  # ascend_scripts/release.py puts libraries there


def with_absolute_links(text: str, address: str) -> str:
    """Markdown in which each link to a file of the repository begins with `address`, as a package index needs it."""
    return re.sub(r"\]\((?!https?://|mailto:|#)([^)\s]+)\)", rf"]({address}/\1)", text)


class Package(Distribution):
    """The package, for one platform if it comes with compiled operators."""

    def parse_config_files(self, *arguments, **options):
        super().parse_config_files(*arguments, **options)
        address = f"{self.metadata.project_urls['Repository']}/blob/v{self.metadata.version}"
        self.metadata.long_description = with_absolute_links((HERE / "README.md").read_text("utf-8"), address)

    def has_ext_modules(self):
        return any(PREBUILT.glob("*.so"))


class Wheel(bdist_wheel):
    """The operators use no part of Python, so one wheel of a platform serves all versions."""

    def get_tag(self):
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(
    distclass=Package,
    cmdclass={"bdist_wheel": Wheel},
    long_description="README.md",  # replaced above
    long_description_content_type="text/markdown",
)
