"""Receivers of notifications that take nothing but what their makers publish: Slack's incoming webhooks
(docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and /reference/block-kit), PagerDuty's Events API v2
(developer.pagerduty.com/docs/send-alert-event), ntfy (docs.ntfy.sh/publish), and what a command wrote that got its event on
standard input. Each keeps (arrival, key, resolved, what was sent); what is wrong is in `problems`.
"""
import datetime
import email.header
import http.server
import json
import os
import re
import threading
import time
import urllib.parse

TOKEN = "tk_0123456789abcdef"
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
LINK = "https://stats.example.org"


class Bad(Exception):
    """What is not as published."""


def need(is_so, what):
    if not is_so:
        raise Bad(what)


def only(found, allowed, where):
    need(isinstance(found, dict), f"{where} is no object")
    unknown = set(found) - set(allowed)
    need(not unknown, f"{where} has {sorted(unknown)}")


def text(found, key, least, most, where):
    value = found.get(key)
    need(isinstance(value, str) and least <= len(value) <= most, f"{where}.{key} is {value!r}")
    need(not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", value), f"{where}.{key} has active characters")
    return value


class Stub(http.server.ThreadingHTTPServer):
    daemon_threads = True
    path = "/"

    def __init__(self):
        self.seen, self.problems = [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    need(self.path == outer.path, f"posted to {self.path}")
                    key, resolved, sent = outer.read(self.headers, body)
                    outer.seen.append((time.time(), key, resolved, sent))
                    status, says = outer.good
                except (Bad, ValueError) as problem:
                    outer.problems.append(f"{type(outer).__name__}: {problem}: {body[:500]!r}")
                    status, says = 400, b"invalid"
                self.send_response(status)
                self.send_header("Content-Length", str(len(says)))
                self.end_headers()
                self.wfile.write(says)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"

    def told(self):
        return [(key, resolved) for _, key, resolved, _ in self.seen]


def is_json(headers):
    need(headers["Content-Type"] == "application/json", f"the type is {headers['Content-Type']}")


class Slack(Stub):
    """`text`, and blocks: here one section of `mrkdwn`. The key is the title."""

    path = "/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"
    good = (200, b"ok")

    def read(self, headers, body):
        is_json(headers)
        need("Authorization" not in headers, "a token")
        message = json.loads(body)
        only(message, ["text", "blocks"], "message")
        shown = text(message, "text", 1, 40_000, "message")
        need(1 <= len(message["blocks"]) <= 50, "blocks")
        for block in message["blocks"]:
            only(block, ["type", "text"], "block")
            need(block["type"] == "section", "the type of a block")
            only(block["text"], ["type", "text", "verbatim"], "text of a block")
            need(block["text"]["verbatim"] is True, "names that become mentions and links")
            need(block["text"]["type"] == "mrkdwn", "the type of a text")
            marked = text(block["text"], "text", 1, 3000, "block")
            # Control characters are escaped, and the only link is ours.
            links = re.findall(r"<([^>]*)>", marked)
            need(all(link.startswith(LINK + "/presence") and "|" in link for link in links), f"links {links}")
            bare = re.sub(r"<[^>]*>", "", marked)
            need(not re.search(r"[<>]|&(?!(amp|lt|gt);)", bare), "text that is not escaped")
        title = shown.split("\n")[0]
        need(re.match(r"(✕ CRITICAL|▲ WARNING|▲ INFO|✓ RESOLVED|– ENDED): ", title), f"the title {title!r}")
        need(" UTC" in shown, "no time")
        return title.split(": ", 1)[1], title[0] in "✓–", message


class PagerDuty(Stub):
    path = "/v2/enqueue"
    good = (202, b'{"status":"success","message":"Event processed","dedup_key":"x"}')

    def read(self, headers, body):
        is_json(headers)
        event = json.loads(body)
        only(event, ["routing_key", "event_action", "dedup_key", "payload", "images", "links", "client", "client_url"], "event")
        need(event["routing_key"] == ROUTING_KEY, "the routing key")
        key = text(event, "dedup_key", 1, 255, "event")
        if event["event_action"] == "resolve":
            return key, True, event
        need(event["event_action"] == "trigger", event["event_action"])
        payload = event["payload"]
        only(payload, ["summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"], "payload")
        text(payload, "summary", 1, 1024, "payload")
        text(payload, "source", 1, 255, "payload")
        need(payload["severity"] in ("critical", "error", "warning", "info"), payload["severity"])
        datetime.datetime.fromisoformat(payload["timestamp"].replace("Z", "+00:00"))
        need(isinstance(payload.get("custom_details", {}), dict), "custom_details")
        for link in event.get("links", []):
            only(link, ["href", "text"], "link")
            need(link["href"].startswith(LINK + "/presence"), link["href"])
        return key, False, event


class Ntfy(Stub):
    """The key is the title without its first word."""

    path = "/my-topic"
    good = (200, b'{"id":"x","time":1,"event":"message","topic":"my-topic"}')

    def read(self, headers, body):
        need(headers["Authorization"] == f"Bearer {TOKEN}", "the token")
        known = {"host", "user-agent", "content-length", "authorization", "title", "priority", "tags", "click", "accept", "content-type"}
        need({name.lower() for name in headers} <= known, f"headers {list(headers)}")
        need(headers["Title"].isascii(), "a title that is not encoded")
        title = str(email.header.make_header(email.header.decode_header(headers["Title"])))
        need(headers["Priority"] in "12345", "the priority")
        need(all(re.fullmatch(r"\w+", tag) for tag in headers["Tags"].split(",")), "tags")
        click = urllib.parse.urlparse(headers["Click"])
        need(click.scheme == "https" and click.path.startswith("/presence"), "the link")
        said = body.decode("utf-8")
        need(0 < len(body) <= 4096 and " UTC" in said, "the message")
        word, _, rest = title.partition(": ")
        resolved = word in ("RESOLVED", "ENDED")
        need(resolved == (headers["Priority"] == "3"), f"priority {headers['Priority']} of {word}")
        return rest, resolved, {"title": title, "text": said}


class Command:
    """A command that appends what it gets to a file."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "exec.jsonl")
        self.problems = []

    def command(self):
        return ["sh", "-c", f"cat >> {self.path}"]

    def told(self):
        """(key, resolved) of each event; a line that is none is a problem."""
        if not os.path.exists(self.path):
            return []
        found = []
        with open(self.path) as lines:
            for line in lines:
                event = json.loads(line)
                for key in ("v", "id", "time", "node", "kind", "severity", "text", "alertname", "resolved", "title", "message", "link", "since"):
                    if key not in event:
                        self.problems.append(f"Command: no {key} in {line}")
                parts = [event["alertname"], event.get("service"), event.get("instance")]
                found.append(("/".join(part for part in parts if part), event["resolved"]))
        return found


class Targets:
    """One of each."""

    def __init__(self, folder):
        self.slack, self.pagerduty, self.ntfy, self.command = Slack(), PagerDuty(), Ntfy(), Command(folder)

    def config(self, slack="", pagerduty="", ntfy=""):
        """Their settings, with more of each."""
        command = json.dumps(self.command.command())
        return f"""
[[notify]]
type = "slack"
url = "{self.slack.url()}"
{slack}
[[notify]]
type = "pagerduty"
url = "{self.pagerduty.url()}"
routing_key = "{ROUTING_KEY}"
{pagerduty}
[[notify]]
type = "ntfy"
url = "{self.ntfy.url()}"
token = "{TOKEN}"
{ntfy}
[[notify]]
type = "exec"
command = {command}
"""

    def problems(self):
        self.command.told()
        return [problem for one in (self.slack, self.pagerduty, self.ntfy, self.command) for problem in one.problems]
