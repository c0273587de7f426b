"""`pip install .`: the wheel is built, installed into an empty folder, and used from there. Usage: wheel_check.py ROOT"""
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import torch, unbend
assert unbend.__file__.startswith({folder!r}), unbend.__file__
x = torch.tensor([1., 2.], dtype=torch.double)
value, j = unbend.linearize(lambda x: x ** 2, x)
assert torch.equal(j.dense(), torch.diag(2 * x)), j.dense()
assert unbend.solve(j, value).converged
"""


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments], check=True)


root = sys.argv[1]
with tempfile.TemporaryDirectory(prefix="unbend-wheel-") as folder:
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, root)
    wheels = list(Path(folder).glob("unbend-*.whl"))
    assert len(wheels) == 1, wheels
    pip("install", "--no-deps", "--target", f"{folder}/site", str(wheels[0]))
    subprocess.run([sys.executable, "-c", PROGRAM.format(folder=f"{folder}/site")], check=True, cwd=folder,
                   env={"PYTHONPATH": f"{folder}/site"})
    print(f"{wheels[0].name}: {wheels[0].stat().st_size / 1e6:.1f} MB")
