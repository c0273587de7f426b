"""The wheel of the Python package: CMake builds its module with everything else (tools/build.sh), for the Python and the
torch of .venv (tools/setup.sh torch)."""
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeModule(build_ext):
    def build_extension(self, extension):
        subprocess.run([ROOT / "tools/setup.sh", "system", "torch", "llama", "plots", "mujoco", "scs"], check=True)
        subprocess.run([ROOT / "tools/build.sh", "unbend_python"], check=True)
        built = ROOT / "build/release/python/unbend" / ("_core" + sysconfig.get_config_var("EXT_SUFFIX"))
        if not built.exists():
            raise RuntimeError(f"this Python wants {built.name}, but .venv has another version of Python: "
                               "remove .venv and build/release, and make .venv with this one")
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(built, target)


setup(ext_modules=[Extension("unbend._core", sources=[])], cmdclass={"build_ext": CMakeModule})
