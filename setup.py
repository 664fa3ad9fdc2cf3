"""Packaging: everything is read from settings.ini, the one file nbdev also reads."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
s = config["DEFAULT"]
SUFFIX = "_requirements"  # of the keys whose packages are an extra
extras = {
    key.removesuffix(SUFFIX): value.split() for key, value in s.items() if key.endswith(SUFFIX)
}
extras["dev"] = sorted({package for packages in extras.values() for package in packages})
setup(
    name=s["lib_name"],
    version=s["version"],
    description=s["description"],
    author=s["author"],
    license="Apache-2.0",
    python_requires=f">={s['min_python']}",
    packages=find_packages(include=["promptrec*"]),
    package_data={"promptrec": ["py.typed", "**/*.csv", "**/*.toml"]},
    install_requires=s["requirements"].split(),
    extras_require=extras,
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    entry_points={
        "nbdev": [f"{s['lib_name']}={s['lib_name']}._modidx:d"],
        "console_scripts": ["promptrec=promptrec.predict.command_line:main"],
    },
)
