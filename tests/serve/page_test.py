"""The chat page in headless Chromium: a message is sent, the answer streams in. Usage: page_test.py UNBEND MODEL [PICTURE]"""
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from server import Server

unbend, model, *picture = sys.argv[1:]
chromium = shutil.which("chromium")
if not chromium or not os.path.exists(model):
    print("chromium or the model is not there: tools/setup.sh peers model")
    sys.exit(77)


class Browser:
    """Chromium's DevTools over a pipe: JSON messages that end with a zero byte."""

    def __init__(self, folder):
        to_read, self.to = os.pipe()
        self.of, of_write = os.pipe()
        # The browser's end must be its files 3 and 4.
        script = f"exec 3<&{to_read} 4>&{of_write}; exec \"$0\" \"$@\""
        self.process = subprocess.Popen(
            ["bash", "-c", script, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"],
            pass_fds=(to_read, of_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(of_write)
        self.count, self.rest, self.events = 0, b"", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                got = os.read(self.of, 1 << 16)
                if not got:
                    raise RuntimeError("the browser ended")
                self.rest += got
            line, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def value(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def until(self, expression):
        for _ in range(600):
            if (value := self.value(expression)):
                return value
            time.sleep(0.05)
        raise AssertionError(f"after 30 s still not: {expression}\n{self.value('document.body.innerText')}")

    def close(self):
        self.process.terminate()
        self.process.wait()


def send(browser, text):
    browser.value("document.getElementById('text').focus()")
    browser.call("Input.insertText", text=text)
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")


def shoot(browser, path):
    with open(path, "wb") as file:
        file.write(base64.b64decode(browser.call("Page.captureScreenshot")["data"]))


ANSWERS = "[...document.querySelectorAll('.assistant')].map(e => e.textContent)"
with tempfile.TemporaryDirectory(prefix="unbend-page-", ignore_cleanup_errors=True) as folder, \
        Server(unbend, model, "--sequences", "2", "--context", "2048", "--api-key", "sesame") as server:
    browser = Browser(folder)
    try:
        browser.call("Runtime.enable")
        browser.call("Log.enable")
        browser.call("Page.navigate", url=server.url)
        browser.until("!!document.getElementById('key-label')?.offsetParent")  # the server wants a key: the page asks for it
        browser.value("""document.getElementById('key').value = 'sesame';
            document.getElementById('key').dispatchEvent(new Event('change'))""")
        browser.until("document.getElementById('model').textContent === 'smol'")
        browser.value("""document.getElementById('temperature').value = 0; document.getElementById('most').value = 60;
            window.seen = new Set();
            new MutationObserver(() => document.querySelectorAll('.assistant').forEach(e => seen.add(e.textContent)))
              .observe(document.getElementById('talk'), {childList: true, subtree: true, characterData: true})""")
        send(browser, "What is a river? <b>&amp;</b>")
        browser.until("document.querySelector('.note')?.textContent.includes('per second')")
        answer = browser.value(ANSWERS + "[0]")
        assert len(answer) > 20, answer
        assert browser.value("seen.size") > 10, "the answer did not stream"
        assert browser.value("document.querySelector('.user').textContent") == "What is a river? <b>&amp;</b>"

        browser.value("document.getElementById('most').value = 1900")
        send(browser, "Tell me everything about the history of Rome.")  # long enough to be stopped
        browser.until(f"({ANSWERS}[1] ?? '').length > 10")
        browser.value("document.getElementById('stop').click()")
        browser.until("[...document.querySelectorAll('.note')].some(e => e.textContent === 'stopped')")
        for _ in range(600):
            if server.metric("sequences_active", "sesame") == 0:
                break
            time.sleep(0.05)
        assert server.metric("sequences_active", "sesame") == 0, "the stopped answer still runs"
        send(browser, "Thanks!")  # goes on with the conversation
        browser.until(f"{ANSWERS}.length === 3 && document.getElementById('stop').disabled")
        assert browser.value(ANSWERS + "[2].length > 0")
        if picture:
            shoot(browser, picture[0])
        browser.value("document.getElementById('new').click()")
        browser.until("document.querySelectorAll('#talk > div.user').length === 0")
        problems = [e for e in browser.events if e.get("method") == "Runtime.exceptionThrown"]
        assert not problems, problems
    finally:
        browser.close()
print("page: ok")
