#!/usr/bin/env python3
"""Drives the chat page in headless Chromium, against real groups on this machine.

    python tests/page/drive.py --bin target/debug --model ~/.cache/lockstep/smollm2 --output /tmp/page

The first group serves a published model on three ranks, one of which is killed while it answers. The second serves a model
whose template shows tools. Answers that no model gives reliably (hostile text, reasoning, a refused key, a broken
connection) are put in the place of the endpoint's. Exits with 0 and prints one line per check.
"""

import argparse
import contextlib
import json
import pathlib
import re
import sys
import tempfile
import time

from playwright.sync_api import Page, expect, sync_playwright

import group

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "clients"))
import models  # noqa: E402

WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
# Longest wait for anything on the page.
WAIT_MS = 60_000
STORY = "Write a long story about a lighthouse keeper and the sea."
KEY = "a-key-of-the-test"
SETTINGS = {"temperature": "0", "max_tokens": "40"}

# Notes each length that the text of an answer has.
NOTE_GROWTH = """() => {
  window.noted = new Set();
  const note = () => window.noted.add(document.querySelector('.message:last-child .content')?.textContent.length ?? 0);
  new MutationObserver(note).observe(document.getElementById('messages'), { childList: true, subtree: true });
}"""

HOSTILE = """# Title <img src=x onerror=alert(1)>

Text with **bold**, *slanted*, `code <b>`, ~~old~~ and <script>alert(2)</script>.

- [safe](https://example.org/a_b) and [unsafe](javascript:alert(3)) and [path](/metrics)
- second
  1. nested

```html
<script>alert(4)</script>
```

| a | b |
|--:|---|
| 1 | `|` |

> quoted ![image](https://example.org/x.png)
"""


def say(text: str) -> None:
    print(f"page: {text}", flush=True)


class Driver:
    """One tab of the browser. It notes every fault that the browser reports, and every foreign request."""

    def __init__(self, browser, url: str, output: pathlib.Path, **options):
        self.context = browser.new_context(viewport=WIDE, accept_downloads=True, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.url, self.output, self.faults, self.bodies = url, output, [], []
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("console", self.note_console)
        self.page.on("request", self.note_request)
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.goto(url)

    def note_console(self, message) -> None:
        # A 503 of /ready and the errors that the test asks for are shown in the console as well.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(f"console: {message.text}")

    def note_request(self, request) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.faults.append(f"foreign request: {request.url}")
        if request.method == "POST":
            self.bodies.append((json.loads(request.post_data), request.headers))

    def shot(self, name: str) -> None:
        self.page.screenshot(path=self.output / f"{name}.png")

    def ask(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def last(self):
        return self.page.locator(".message").last

    def text(self) -> str:
        return self.last().locator(".content").inner_text()

    def await_end(self) -> None:
        expect(self.last()).to_have_attribute("aria-busy", "false", timeout=WAIT_MS)

    def await_text(self, length: int) -> None:
        for _ in range(WAIT_MS // 50):
            if self.last().locator(".content").count() and len(self.text()) >= length:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"the answer has {len(self.text())} characters, fewer than {length}")

    def set(self, **settings: str) -> None:
        self.page.get_by_role("button", name="Settings", exact=True).click()
        for name, value in settings.items():
            field = self.page.locator(f"[data-setting={name}]")
            field.fill(value)
            field.blur()
        self.page.get_by_role("button", name="Close the settings").click()

    def new_chat(self) -> None:
        self.page.keyboard.press("Alt+n")

    @contextlib.contextmanager
    def instead(self, pattern: str, answer):
        """Lets `answer` take the requests to an address."""
        self.page.route(pattern, answer)
        yield
        self.page.unroute(pattern)

    def check_faults(self) -> None:
        assert not self.faults, "\n".join(self.faults)
        self.context.close()


def stream_of(*deltas: dict):
    """Returns a route's handler that answers with a stream of these deltas."""
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    chunks += [{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(deltas), "total_tokens": 3 + len(deltas)}}]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body)


def check_answer(driver: Driver) -> None:
    driver.set(**SETTINGS)
    driver.page.evaluate(NOTE_GROWTH)
    driver.ask("What is the capital of France?")
    driver.await_end()
    steps = driver.page.evaluate("window.noted.size")
    assert steps > 5, f"the text grew in {steps} steps"
    figures = driver.page.locator(".figures").inner_text()
    assert re.search(r"^\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s · prompt \d+ tokens", figures), figures
    body, headers = driver.bodies[-1]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 40, True), body
    assert "seed" not in body and "tools" not in body and "authorization" not in headers
    spoken = driver.page.locator("#spoken").text_content()
    assert spoken.split()[0] in driver.text(), "the live region has the text"
    say(f"an answer is streamed in {steps} steps: {figures}")


def check_versions(driver: Driver) -> None:
    first = driver.text()
    driver.page.get_by_role("button", name="Answer again").click()
    driver.page.locator(".answer .versions", has_text="2/2").wait_for()
    assert driver.text() == first, "the same question at temperature 0 has the same answer"
    driver.page.keyboard.press("Alt+e")
    box = driver.page.get_by_label("Edit the question")
    box.fill("What is the capital of Italy?")
    box.press("Enter")
    driver.page.locator(".user .versions", has_text="2/2").wait_for()
    driver.await_end()
    assert driver.bodies[-1][0]["messages"][-1]["content"] == "What is the capital of Italy?"
    driver.page.locator(".user .versions").get_by_role("button", name="Earlier version").click()
    expect(driver.page.locator(".bubble")).to_have_text("What is the capital of France?")
    assert driver.text() == first
    say("a question is edited, an answer made again, and each version kept")


def check_stop(driver: Driver, served: group.Group) -> None:
    driver.new_chat()
    driver.set(max_tokens="")
    driver.ask(STORY)
    driver.await_text(40)
    driver.page.keyboard.press("Escape")
    driver.last().get_by_text("You stopped this answer.").wait_for()
    served.wait_until("idle", lambda: served.metric("lockstep_requests_running") == 0)
    say(f"Esc stops an answer, and the head runs no request: {len(driver.text())} characters stay")


def check_history(driver: Driver) -> None:
    before = driver.page.locator("#messages").inner_text()
    assert driver.page.locator("#chats li").count() == 2
    driver.page.reload()
    driver.page.locator(".message").first.wait_for()
    assert driver.page.locator("#messages").inner_text() == before
    driver.page.keyboard.press("Alt+ArrowDown")
    expect(driver.page.locator(".bubble")).to_have_text("What is the capital of France?")
    driver.page.keyboard.press("Alt+ArrowUp")
    expect(driver.page.locator(".bubble")).to_have_text(STORY)
    with driver.page.expect_download() as download:
        driver.page.get_by_role("button", name="Export all").click()
    exported = json.loads(pathlib.Path(download.value.path()).read_text())
    assert [chat["title"] for chat in exported["conversations"]][-1] == "What is the capital of France?"
    say("a reload keeps both conversations, and an export has them")


def check_loss(driver: Driver, served: group.Group) -> None:
    driver.new_chat()
    driver.set(temperature="0", max_tokens="400")
    epoch = served.ready()["epoch"]
    expect(driver.page.locator("#group-words")).to_have_text("3/3 ranks")
    driver.ask(STORY)
    driver.await_text(60)
    with group.lost(served, 1):
        driver.page.locator(".rank", has_text="rank 2").locator(".dot.bad").wait_for()
        driver.page.locator("#group-alert", has_text="Rank 2 is lost.").wait_for()
        driver.last().locator(".progress.bad").wait_for()
        at_loss = len(driver.text())
        driver.shot("rank-lost")
    driver.page.locator("#group-alert.over", has_text="Rank 2 was lost and is back").wait_for()
    driver.shot("rank-back")
    served.wait_until("ready again", lambda: served.ready().get("ready"))
    expect(driver.page.locator("#group-epoch")).to_have_text(f" · epoch {served.ready()['epoch']}", timeout=WAIT_MS)
    assert served.ready()["epoch"] > epoch
    driver.await_end()
    survived = driver.last().locator(".survived").inner_text()
    assert survived.startswith("Rank 2 was lost and came back in epoch"), survived
    assert len(driver.text()) > at_loss and driver.last().locator(".failure").count() == 0
    events = driver.page.locator("#events").text_content()
    assert "rank 2: lost" in events and "rank 2: serving" in events, events
    driver.page.get_by_text("What happened since this page was opened").click()
    driver.shot("rank-events")
    say(f"rank 2 dies and returns while the answer grows from {at_loss} to {len(driver.text())} characters: {survived}")


def check_looks(driver: Driver) -> None:
    page = driver.page
    parts = [{"reasoning_content": "The user wants it *short*."}, {"content": HOSTILE}]
    driver.new_chat()
    with driver.instead("**/v1/chat/completions", stream_of(*parts)):
        driver.ask("Show what you can write")
        driver.await_end()
    answer = driver.last()
    assert answer.locator("img, script, iframe").count() == 0
    assert [link.get_attribute("href") for link in answer.locator("a").all()] == ["https://example.org/a_b", "https://example.org/x.png"]
    assert answer.locator("a").first.get_attribute("rel") == "noopener noreferrer nofollow"
    for selector, text in [
        ("h3", "Title <img src=x onerror=alert(1)>"), ("strong", "bold"), ("em >> nth=-1", "slanted"), ("del", "old"),
        ("figure pre", "<script>alert(4)</script>"), ("td >> nth=1", "|"), ("li li", "nested"), ("blockquote", "quoted image"),
    ]:
        found = answer.locator(".content").locator(selector).inner_text()
        assert found.strip() == text, f"{selector}: {found!r}"
    reasoning = answer.locator("details.reasoning")
    assert reasoning.get_attribute("open") is None, "reasoning is folded"
    expect(reasoning.locator("summary")).to_contain_text("Thought")
    page.emulate_media(color_scheme="light")
    driver.shot("light")
    page.emulate_media(color_scheme="dark")
    driver.shot("dark")
    theme = page.get_by_role("button", name="Theme: system")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    theme.click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark, "the switch wins over the system"
    page.reload()
    page.get_by_role("button", name="Theme: light").click()
    page.get_by_role("button", name="Theme: dark").click()
    page.get_by_role("button", name="Settings", exact=True).click()
    driver.shot("settings")
    page.get_by_role("button", name="Close the settings").click()
    page.set_viewport_size(NARROW)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"], "nothing is wider than the screen"
    driver.shot("narrow")
    page.get_by_role("button", name="Open the list of conversations").click()
    expect(page.get_by_role("button", name="Close the list of conversations")).to_be_focused()
    page.wait_for_timeout(300)
    driver.shot("narrow-list")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Open the list of conversations")).to_be_focused()
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)
    say("hostile text stays text, reasoning is folded, and the page fits light, dark and narrow")


def check_keyboard(driver: Driver) -> None:
    page = driver.page
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    order = []
    for _ in range(40):
        label = page.evaluate("(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).trim()")
        order.append(label)
        page.keyboard.press("Tab")
    for label in ["New conversation", "Settings", "Copy the answer", "Answer again"]:
        assert label in order, f"Tab does not reach {label}: {order}"
    for expected in [expect(page.locator("#group")).to_be_visible, expect(page.locator("#group")).to_be_hidden]:
        page.keyboard.press("Alt+g")
        expected()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Keyboard")).to_be_hidden()
    say("the page is used by keyboard")


def check_faults(driver: Driver) -> None:
    page = driver.page
    driver.new_chat()
    with driver.instead("**/v1/chat/completions", lambda route: route.abort()):
        driver.ask("Is anybody there?")
        page.locator(".failure", has_text="The head cannot be reached.").wait_for()
        driver.shot("failure")
    with driver.instead("**/v1/chat/completions", stream_of({"content": "Yes."})):
        page.get_by_role("button", name="Try again").click()
        driver.await_end()
    assert driver.text() == "Yes."
    refusal = {"error": {"message": "the queue is full (4 requests wait): try again in 1 s", "type": "rate_limit_error"}}
    with driver.instead("**/v1/chat/completions", lambda route: route.fulfill(status=429, json=refusal)):
        driver.ask("And now?")
        page.locator(".failure", has_text="The queue is full (4 requests wait): try again in 1 s.").wait_for()
    broken = 'data: {"choices": [{"index": 0, "delta": {"content": "Half"}}]}\n\n'
    with driver.instead("**/v1/chat/completions", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=broken)):
        page.get_by_role("button", name="Try again").click()
        page.locator(".failure", has_text="The connection ended before the answer did.").wait_for()
    assert driver.text() == "Half", "what came stays"
    say("errors are told in words, and another try goes on")

    def locked(route) -> None:
        if route.request.headers.get("authorization") == "Bearer secret":
            stream_of({"content": "Welcome."})(route)
        else:
            route.fulfill(status=401, json={"error": {"message": "no key"}})

    driver.new_chat()
    with driver.instead("**/v1/chat/completions", locked):
        driver.ask("Let me in")
        page.locator("#ask-input").fill("secret")
        page.keyboard.press("Enter")
        expect(driver.last().locator(".content")).to_have_text("Welcome.", timeout=WAIT_MS)
    stored = page.evaluate("[JSON.stringify({...localStorage}), sessionStorage.getItem('lockstep.api-key')]")
    assert "secret" not in stored[0] and stored[1] == "secret"
    page.locator("#api-key").evaluate("(field) => { field.value = ''; field.dispatchEvent(new Event('change')); }")
    say("a 401 asks for the key, which is kept for the tab alone")


def check_deletion(driver: Driver) -> None:
    """Deletes a conversation while its answer comes."""
    page = driver.page
    driver.new_chat()
    driver.ask(STORY)
    driver.await_text(10)
    before = page.locator("#chats li").count()
    page.locator("#chats li").first.hover()
    page.locator("#chats li").first.get_by_role("button", name=re.compile("^Delete")).click()
    page.locator("#ask-yes").click()
    expect(page.locator("#chats li")).to_have_count(before - 1)
    page.wait_for_timeout(500)
    page.reload()
    expect(page.locator("#chats li")).to_have_count(before - 1)
    say("a deleted conversation is gone from the browser, and its answer has ended")


def check_tools(browser, served: group.Group, output: pathlib.Path) -> None:
    driver = Driver(browser, served.url, output, color_scheme="light")
    expect(driver.page.locator("#ask-title")).to_have_text("The endpoint asks for an API key")
    driver.shot("key")
    for key, title in [("wrong", "The endpoint refuses this API key"), (KEY, "")]:
        driver.page.locator("#ask-input").fill(key)
        driver.page.keyboard.press("Enter")
        if title:
            expect(driver.page.locator("#ask-title")).to_have_text(title)
    expect(driver.page.locator("#model")).to_have_text("tools")
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}
    tool = {"type": "function", "function": {"name": "Weather", "description": "The weather of a city", "parameters": parameters}}
    driver.set(temperature="0", max_tokens="60", tools="[")
    driver.ask("What is the weather?")
    expect(driver.page.locator("#setting-fault")).to_contain_text("Tools")
    driver.page.get_by_role("button", name="Close the settings").click()
    driver.set(tools=json.dumps([tool]))
    call = [{"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "Weather", "arguments": ""}}]}]
    call += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ['{"city": "Be', 'rn", "days": 2}']]
    with driver.instead("**/v1/chat/completions", stream_of(*call)):
        driver.page.get_by_label("Message", exact=True).press("Enter")
        driver.await_end()
    assert driver.bodies[-1][0]["tools"] == [tool]
    expect(driver.last().locator(".calls summary")).to_have_text("Call of Weather")
    assert json.loads(driver.last().locator(".calls pre").inner_text()) == {"city": "Bern", "days": 2}
    driver.page.get_by_label("Result of call 1, Weather").fill("Bern: sun for 2 days")
    driver.shot("tools")
    driver.page.get_by_role("button", name="Send the result").click()
    driver.await_end()
    messages = driver.bodies[-1][0]["messages"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "Weather", "arguments": '{"city": "Bern", "days": 2}'}
    assert messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "Bern: sun for 2 days"}
    assert driver.last().locator(".failure").count() == 0 and driver.text(), "the model answers to the result"
    driver.check_faults()
    say("a call is shown, its result sent, and the model answers")


def check_docs(browser, served: group.Group, output: pathlib.Path) -> None:
    driver = Driver(browser, served.url, output, color_scheme="light")
    page = driver.page
    page.get_by_role("link", name="API").click()
    page.locator(".operation").first.wait_for()
    page.wait_for_timeout(300)
    assert page.locator(".operation").count() > 8
    page.get_by_label("Find an operation or a field").fill("include_reasoning")
    chats = page.locator(".operation:visible")
    expect(chats).to_have_count(2)  # of one conversation, and of several
    chats.first.locator("summary").click()
    expect(chats.first.get_by_text("temperature", exact=True)).to_be_visible()
    driver.shot("docs")
    page.set_viewport_size(NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"], "nothing is wider than the screen"
    driver.shot("docs-narrow")
    driver.check_faults()
    say("/docs describes the endpoint")


def check_published(browser, served: group.Group, output: pathlib.Path) -> None:
    driver = Driver(browser, served.url, output, color_scheme="light")
    expect(driver.page.locator("#group-words")).to_have_text("3/3 ranks", timeout=WAIT_MS)
    expect(driver.page.locator("#model")).to_have_text("smollm2")
    driver.shot("empty")
    check_answer(driver)
    driver.shot("answer")
    check_versions(driver)
    check_stop(driver, served)
    check_history(driver)
    check_loss(driver, served)
    check_looks(driver)
    check_keyboard(driver)
    check_faults(driver)
    check_deletion(driver)
    driver.check_faults()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = pathlib.Path(name)
        # Chromium's own sandbox needs rights that root in a container lacks. The page comes from this machine.
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        with group.published(given.bin, given.model, folder) as served:
            served.wait_until("listening", lambda: served.ready() != {})
            check_published(browser, served, given.output)
            check_docs(browser, served, given.output)
        with group.single(given.bin, models.make("tools", folder), folder, KEY) as served:
            served.wait_until("ready", lambda: served.ready().get("ready"))
            check_tools(browser, served, given.output)
        browser.close()
    say(f"all checks passed in {time.monotonic() - began:.0f} s; screenshots are in {given.output}")


if __name__ == "__main__":
    main()
