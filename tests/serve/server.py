"""Starts `unbend serve` for the tests of this folder."""
import os
import re
import subprocess
import time
import urllib.error
import urllib.request


class Server:
    """The server with SmolLM2 on a free port, stopped at the end of the `with` block."""

    def __init__(self, unbend, model, *options, port=0, environment=None):
        self.process = subprocess.Popen(
            [unbend, "serve", model, "--port", str(port), "--threads", "2", "--name", "smol", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
        line = self.process.stdout.readline()
        found = re.search(r"http://[\d.]+:(\d+)", line)
        if not found:
            error = self.process.stderr.read()
            self.__exit__()
            raise RuntimeError(f"the server did not start: {line}{error}")
        self.port = int(found.group(1))
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def get(self, path, key=None, method="GET"):
        """Status, headers and text of an answer."""
        request = urllib.request.Request(self.url + path, method=method,
                                         headers={"Authorization": f"Bearer {key}"} if key else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.headers, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()

    def metric(self, name, key=None):
        """The value of a metric (sum over its labels)."""
        lines = re.findall(rf"^unbend_{name}(?:{{.*}})? (\S+)$", self.get("/metrics", key)[2], re.M)
        return sum(map(float, lines))

    def memory(self):
        """Resident MiB of the server."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024

    def wait_for(self, name, value, seconds=30):
        """Until a metric has a value."""
        end = time.monotonic() + seconds
        while (now := self.metric(name)) != value:
            if time.monotonic() > end:
                raise AssertionError(f"{name} is {now} after {seconds} s, not {value}")
            time.sleep(0.05)
