"""`kubectl rltrain` from its arguments to its exit code, over HTTP to a server that answers from a script.

What a real API server answers is tested on the local cluster; here it also says what a healthy one seldom does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rltrain_operator.cli.__main__ import VERBS, main

JOB_PATH = "/apis/rltrain.io/v1alpha1/namespaces/team-a/rltrainingjobs"
HISTORY_PATH = "/api/v1/namespaces/team-a/configmaps/quickstart-history"
NOT_FOUND = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
HISTORY = {"points": [{"step": 0, "evalScore": 0.25}, {"step": 1, "reward": 0.5}, {"step": 2, "evalScore": 0.75}]}


def job(version: int, **status: Any) -> dict[str, Any]:
    metadata = {
        "name": "quickstart",
        "namespace": "team-a",
        "uid": "u1",
        "generation": 1,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-05-01T12:00:00Z",
    }
    return {"apiVersion": "rltrain.io/v1alpha1", "kind": "RLTrainingJob", "metadata": metadata, "status": status}


def ended(version: int, kind: str) -> dict[str, Any]:
    condition = {"type": kind, "status": "True", "reason": "End", "lastTransitionTime": "2026-05-01T12:00:00Z"}
    return job(version, conditions=[condition], completionTime="2026-05-01T12:01:00Z")


def changed(document: dict[str, Any]) -> dict[str, Any]:
    return {"type": "MODIFIED", "object": document}


class ScriptedServer(ThreadingHTTPServer):
    """Answers of (code, body) by path; a watch takes the next list of events and ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.watches: list[Any] = []
        self.released = threading.Event()

    def answer(self, path: str, *answers: tuple[int, Any]) -> None:
        """Answer `path` with these in turn, the last one for ever."""
        self.answers[path] = list(answers)


class Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"  # a stream in chunks, as the API server sends it

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if "watch=True" in query or "watch=true" in query:
            self._watch()
            return
        answers = self.server.answers.get(path, [(404, NOT_FOUND)])
        code, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self._reply(code, body if isinstance(body, str) else json.dumps(body))

    def _watch(self) -> None:
        script = self.server.watches.pop(0) if self.server.watches else None
        if isinstance(script, int):
            self._reply(script, json.dumps({"kind": "Status", "code": script}))
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in script if isinstance(script, list) else []:
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        if script == "cut off":
            self.close_connection = True
            return
        if script is None:  # a watch without news
            self.server.released.wait(20)
        self.wfile.write(b"0\r\n\r\n")

    def _reply(self, code: int, body: str) -> None:
        content = body.encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test says what went wrong."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A server that is the current context of KUBECONFIG; its namespace is team-a."""
    with ScriptedServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{running.server_address[1]}")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


def write_kubeconfig(path: Path, url: str) -> None:
    context = {"cluster": "here", "user": "me", "namespace": "team-a"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "local",
        "contexts": [{"name": "local", "context": context}],
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {}}],
    }
    path.write_text(json.dumps(document))


def test_watch_to_the_end_then_the_summary(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer(f"{JOB_PATH}/quickstart", (200, job(1)))
    server.answer(HISTORY_PATH, (200, {"data": {"history.json": json.dumps(HISTORY)}}))
    server.watches = [
        [changed(job(2, phase="Running", progress={"step": 1, "totalSteps": 2}))],
        [changed(ended(3, "Complete"))],
    ]
    assert main(["watch", "quickstart"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[2].split("  elapsed")[0] for line in shown[:4]] == [
        "Pending",
        "Running  step 1/2",
        "Complete=True  End",
        "Pending",
    ]
    assert shown[4:] == [
        "",
        "quickstart: Complete after 1m00s",
        "  reward      0.500",
        "  eval        0.250 → 0.750  (+50.0 points)",
    ]


def test_watch_survives_errors_and_says_so(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer(f"{JOB_PATH}/quickstart", (200, job(1)), (200, job(5)), (200, ended(7, "Failed")))
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
    server.watches = [[gone], 503, "cut off"]
    server.answers[f"{JOB_PATH}/quickstart"].insert(2, (200, job(6)))
    assert main(["watch", "quickstart"]) == 1
    shown = capsys.readouterr().out
    assert "the API server answered 503 Service Unavailable; trying again in 1s, the job itself goes on" in shown
    assert "the API server does not answer: the connection ended; trying again in 2s, the job itself goes on" in shown
    assert shown.count("the API server answers again") == 2
    assert "quickstart: Failed after 1m00s" in shown


ENDINGS: dict[str, tuple[list[tuple[int, Any]], list[str], int, str]] = {
    "no such job": (
        [(404, NOT_FOUND)],
        ["watch", "quickstart"],
        2,
        "no RLTrainingJob 'quickstart' in namespace 'team-a'",
    ),
    "no such kind": ([(404, "404 page not found\n")], ["watch", "quickstart"], 2, "Install the operator's chart first"),
    "no access": (
        [(403, {"code": 403})],
        ["watch", "quickstart"],
        2,
        "403 Forbidden. Ask for the verbs get, list and watch",
    ),
    "not logged in": ([(401, {"code": 401})], ["watch", "quickstart"], 2, "401 Unauthorized. Log in"),
    "no such context": ([], ["watch", "quickstart", "--context", "prod"], 2, "no context 'prod' in"),
    "time is up": (
        [(200, job(1, phase="Running", progress={"step": 7}))],
        ["watch", "quickstart", "--timeout", "0.2"],
        3,
        "still Running at step 7 after 0s; the job goes on: kubectl rltrain watch quickstart --namespace team-a",
    ),
    "over already": ([(200, ended(1, "Complete"))], ["watch", "quickstart"], 0, ""),
    "failed already": ([(200, ended(1, "Failed"))], ["watch", "quickstart"], 1, ""),
    "stalled": ([(200, ended(1, "Stalled"))], ["watch", "quickstart"], 1, ""),
    "curve of no job": ([(404, NOT_FOUND)], ["curve", "quickstart"], 2, "no RLTrainingJob 'quickstart'"),
    "curve too early": ([(200, job(1))], ["curve", "quickstart"], 2, "quickstart has no curve yet"),
}


@pytest.mark.parametrize(("answers", "words", "code", "error"), ENDINGS.values(), ids=ENDINGS.keys())
def test_exit_code_and_error(
    server: ScriptedServer,
    capsys: pytest.CaptureFixture[str],
    answers: list[tuple[int, Any]],
    words: list[str],
    code: int,
    error: str,
) -> None:
    if answers:
        server.answer(f"{JOB_PATH}/quickstart", *answers)
    assert main(words) == code
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == (1 if error else 0)


def test_namespace_flag_wins_over_the_context(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer(f"{JOB_PATH.replace('team-a', 'team-b')}/quickstart", (200, ended(1, "Complete")))
    assert main(["watch", "quickstart", "-n", "team-b"]) == 0
    assert main(["watch", "quickstart"]) == 2


def test_curve_in_the_terminal_and_as_a_picture(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.answer(HISTORY_PATH, (200, {"data": {"history.json": json.dumps(HISTORY)}}))
    picture = tmp_path / "out" / "curve.png"
    assert main(["curve", "quickstart", "--width", "40", "--png", str(picture)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in shown[:-1]) == 40
    assert sum(line.count("●") for line in shown[2:]) == 2
    assert shown[-1] == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")


BAD_HISTORIES = {"no JSON": "{", "another document": json.dumps({"points": [{"reward": 1}]})}


@pytest.mark.parametrize("text", BAD_HISTORIES.values(), ids=BAD_HISTORIES.keys())
def test_a_broken_history_is_named(server: ScriptedServer, capsys: pytest.CaptureFixture[str], text: str) -> None:
    server.answer(HISTORY_PATH, (200, {"data": {"history.json": text}}))
    assert main(["curve", "quickstart"]) == 2
    assert "ConfigMap quickstart-history, key history.json, is no history" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_named(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer(HISTORY_PATH, (200, {"data": {"history.json": json.dumps(HISTORY)}}))
    assert main(["curve", "quickstart", "--png", "/proc/curve.png"]) == 2
    assert "cannot write /proc/curve.png" in capsys.readouterr().err


def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert main(["watch", "quickstart"]) == 2
    assert "no cluster to talk to" in capsys.readouterr().err
    (tmp_path / "none").write_text("{broken")
    assert main(["watch", "quickstart"]) == 2
    assert "Set KUBECONFIG" in capsys.readouterr().err
    write_kubeconfig(tmp_path / "none", "http://127.0.0.1:1")
    assert main(["watch", "quickstart"]) == 2
    assert capsys.readouterr().err == (
        "kubectl rltrain watch: the API server does not answer: Connection refused. "
        "Is the cluster up, and is the context the right one?\n"
    )


USAGE = {
    "no verb": [],
    "unknown verb": ["dance"],
    "no name": ["watch"],
    "no number": ["watch", "q", "--timeout", "soon"],
    "negative": ["watch", "q", "--timeout=-1"],
    "too narrow": ["curve", "q", "--width", "5"],
    "not a width": ["curve", "q", "--width", "wide"],
}


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE.keys())
def test_bad_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: kubectl rltrain" in capsys.readouterr().err


def run_python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}


def test_ctrl_c_is_130_and_says_that_the_job_goes_on(server: ScriptedServer) -> None:
    server.answer(f"{JOB_PATH}/quickstart", (200, job(1, phase="Running", progress={"step": 3})))
    command = run_python("-m", "rltrain_operator.cli", "watch", "quickstart")
    # A shell that runs the tests in the background has them ignore the signal, and a child inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "step 3" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert error == "no longer watching; the job goes on: kubectl rltrain watch quickstart --namespace team-a\n"


def test_a_reader_that_leaves_is_no_traceback(server: ScriptedServer) -> None:
    server.answer(f"{JOB_PATH}/quickstart", (200, ended(1, "Complete")))
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = run_python("-m", "rltrain_operator.cli", "watch", "quickstart")
    finished = subprocess.run(
        command, env=environment(), stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=20, check=False
    )
    os.close(write_end)
    assert (finished.returncode, finished.stderr) == (1, "")


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from rltrain_operator.cli.__main__ import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "except SystemExit:\n"
        "    print('modules:', *sorted(m for m in sys.modules if '.' not in m))\n"
    )
    finished = subprocess.run(
        run_python("-c", program), env=environment(), capture_output=True, text=True, timeout=20, check=True
    )
    loaded = finished.stdout.partition("modules: ")[2].split()
    assert "rltrain_operator" in loaded
    heavy = {"kubernetes", "matplotlib", "numpy", "urllib3", "kopf", "torch", "ray", "aiohttp"}
    assert not heavy.intersection(loaded)
    if words == ["--help"]:
        assert "pydantic" not in loaded
