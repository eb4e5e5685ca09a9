"""Fetching onto a volume: real files over real sockets, a stand-in for a hub, and everything that goes wrong there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]  # it has no stubs
import pytest
from huggingface_hub import constants

from file_server import COMMIT, Files, serving
from object_server import Objects, credentials, object_server
from rltrain_api.fetching import EXIT_FINAL, FetchProgress, parse_progress
from rltrain_trainer.fetch import hub
from rltrain_trainer.fetch.arrivals import Arrivals
from rltrain_trainer.fetch.errors import FetchError
from rltrain_trainer.fetch.records import KEPT_DIRECTORY, Request
from rltrain_trainer.fetch.run import fetch
from rltrain_trainer.fetch.sizes import shown
from rltrain_trainer.fetch.web import WebFile

CONTENT = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "volume" / "data"


@pytest.fixture
def files() -> Files:
    return Files({"train.parquet": CONTENT})


@pytest.fixture
def url(files: Files) -> Iterator[str]:
    with serving(files) as address:
        yield f"{address}/train.parquet"


def web(source: str, target: Path, *, sha256: str | None = None, tries: int = 3) -> WebFile:
    """A file over HTTP that does not wait between its tries."""
    return WebFile(Request("dataset", source, target, sha256), pauses=(0.0,) * (tries - 1))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


# --- over HTTP ------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once_and_a_second_job_finds_it(files: Files, url: str, target: Path) -> None:
    source = web(url, target)
    first = fetch(source.request, source)
    assert first.fetched
    assert (target / "train.parquet").read_bytes() == CONTENT
    assert first.record.files["train.parquet"].sha256 == DIGEST
    second = fetch(source.request, source)
    assert not second.fetched
    assert str(second) == "1 file, 3.0 MB, there already"
    assert len(files.gets()) == 1


def test_with_the_digest_no_request_is_made_the_second_time(files: Files, url: str, target: Path) -> None:
    source = web(url, target, sha256=DIGEST)
    fetch(source.request, source)
    asked = len(files.requests)
    assert not fetch(source.request, source).fetched
    assert len(files.requests) == asked


def test_a_file_that_has_changed_is_fetched_again(files: Files, url: str, target: Path) -> None:
    source = web(url, target)
    fetch(source.request, source)
    files.content["train.parquet"] = b"new"
    assert fetch(source.request, source).fetched
    assert (target / "train.parquet").read_bytes() == b"new"


def test_a_file_that_was_lost_or_cut_is_fetched_again(url: str, target: Path) -> None:
    source = web(url, target)
    fetch(source.request, source)
    (target / "train.parquet").write_bytes(b"cut")
    assert fetch(source.request, source).fetched
    assert (target / "train.parquet").read_bytes() == CONTENT


def test_a_broken_answer_is_continued_where_it_broke_off(files: Files, url: str, target: Path) -> None:
    files.break_after = 1_000_000
    source = web(url, target)
    fetch(source.request, source)
    assert (target / "train.parquet").read_bytes() == CONTENT
    first, second = files.gets()
    assert first == ""
    assert second.startswith("bytes=")
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 1_000_000


def test_the_next_pod_continues_what_the_last_one_left(files: Files, url: str, target: Path) -> None:
    files.break_after = 1_000_000
    first = web(url, target, tries=1)
    with pytest.raises(FetchError) as caught:
        fetch(first.request, first)
    assert not caught.value.final
    assert names_in(target) == []
    second = web(url, target)
    fetch(second.request, second)
    assert (target / "train.parquet").read_bytes() == CONTENT
    assert files.gets()[1].startswith("bytes=")


def test_a_part_of_another_state_of_the_file_is_not_continued(files: Files, url: str, target: Path) -> None:
    files.break_after = 1_000_000
    first = web(url, target, tries=1)
    with pytest.raises(FetchError):
        fetch(first.request, first)
    files.content["train.parquet"] = other = os.urandom(2_000_000)
    second = web(url, target)
    fetch(second.request, second)
    assert (target / "train.parquet").read_bytes() == other


def test_a_part_longer_than_the_file_is_thrown_away(files: Files, url: str, target: Path) -> None:
    files.break_after = 1_000_000
    first = web(url, target, tries=1)
    with pytest.raises(FetchError):
        fetch(first.request, first)
    (part,) = (target / KEPT_DIRECTORY).glob("*.part")
    part.write_bytes(CONTENT + b"more")
    second = web(url, target)
    fetch(second.request, second)
    assert (target / "train.parquet").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(files: Files, url: str, target: Path) -> None:
    files.heads = False
    files.statuses = [405, 503, 429]
    source = web(url, target)
    fetch(source.request, source)
    assert (target / "train.parquet").read_bytes() == CONTENT


def test_a_server_without_head_and_etag_is_believed_to_be_unchanged(files: Files, url: str, target: Path) -> None:
    files.heads = files.etags = False
    source = web(url, target)
    assert fetch(source.request, source).fetched
    assert not fetch(source.request, source).fetched


REFUSED = {
    "no such file": (404, "there is no such file", True),
    "no access": (403, "access is refused", True),
    "credentials": (401, "it wants credentials", True),
    "busy for ever": (503, "HTTP 503", False),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_server_refuses(case: str, files: Files, url: str, target: Path) -> None:
    status, words, final = REFUSED[case]
    files.statuses = [status] * 10
    source = web(url, target)
    with pytest.raises(FetchError, match=words) as caught:
        fetch(source.request, source)
    assert caught.value.final is final
    assert len(files.gets()) == (1 if final else 3)


def test_nobody_there_names_host_and_remedy(target: Path) -> None:
    with serving(Files()) as address:
        gone = address
    source = web(f"{gone}/train.parquet", target)
    with pytest.raises(FetchError, match=r"cannot reach 127\.0\.0\.1:\d+: .*NetworkPolicy, proxy, DNS") as caught:
        fetch(source.request, source)
    assert not caught.value.final


def test_what_is_there_is_used_while_nobody_answers(files: Files, target: Path) -> None:
    with serving(files) as address:
        source = web(f"{address}/train.parquet", target)
        fetch(source.request, source)
    assert not fetch(source.request, source).fetched


def test_another_file_than_the_digest_s_is_not_kept(url: str, target: Path) -> None:
    source = web(url, target, sha256="0" * 64)
    with pytest.raises(FetchError, match=f"has SHA-256 {DIGEST}, and 0000") as caught:
        fetch(source.request, source)
    assert caught.value.final
    assert names_in(target) == []
    assert [path.name for path in (target / KEPT_DIRECTORY).iterdir()] == ["lock"]


def test_an_address_without_a_file_s_name_is_refused(url: str, target: Path) -> None:
    source = web(url.removesuffix("train.parquet"), target)
    with pytest.raises(FetchError, match="name the file itself"):
        fetch(source.request, source)


def test_a_record_that_cannot_be_read_is_made_again(url: str, target: Path) -> None:
    source = web(url, target)
    fetch(source.request, source)
    (record,) = (target / KEPT_DIRECTORY).glob("*.json")
    record.write_text("{")
    assert fetch(source.request, source).fetched


def test_two_sources_share_a_directory(files: Files, url: str, target: Path) -> None:
    files.content["validation.parquet"] = b"validation"
    for name in ("train.parquet", "validation.parquet"):
        source = web(url.replace("train.parquet", name), target)
        assert fetch(source.request, source).fetched
    assert names_in(target) == ["train.parquet", "validation.parquet"]


# --- a hub (a stand-in on the loopback interface) -------------------------------------------------------------------

MODEL = {"config.json": b"{}", "model.safetensors": CONTENT, "original/consolidated.pth": b"p" * 1000}


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Files]:
    """A hub whose only repository, of a model and of a dataset, is owner/name."""
    files = Files(dict(MODEL))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    with serving(files) as address:
        monkeypatch.setattr(hub, "ENDPOINT", address)
        yield files


def asked(source: str, target: Path, *, kind: str = "model", sha256: str | None = None, include: str = "") -> Request:
    return Request(kind, source, target, sha256, (include,) if include else ())  # type: ignore[arg-type]  # the two kinds


HUB_CASES: dict[str, tuple[dict[str, str], list[str]]] = {
    "a whole model": ({"source": "hf://owner/name"}, list(MODEL)),
    "a dataset at a commit": ({"source": f"hf://datasets/owner/name@{COMMIT}", "kind": "dataset"}, list(MODEL)),
    "files that match": ({"source": "hf://owner/name", "include": "*.json"}, ["config.json"]),
    "one directory": ({"source": "hf://owner/name/original"}, ["original/consolidated.pth"]),
    "one file and its digest": (
        {"source": "hf://owner/name/model.safetensors", "sha256": DIGEST},
        ["model.safetensors"],
    ),
}


@pytest.mark.parametrize("case", HUB_CASES)
def test_files_of_a_hub(case: str, repository: Files, target: Path) -> None:
    arguments, names = HUB_CASES[case]
    outcome = fetch(asked(target=target, **arguments))
    assert outcome.fetched
    assert sorted(outcome.record.files) == sorted(names)
    assert all((target / name).read_bytes() == MODEL[name] for name in names)
    assert not fetch(asked(target=target, **arguments)).fetched


HUB_REFUSALS: dict[str, tuple[dict[str, str], dict[str, object], str, bool]] = {
    "another's digest": (
        {"source": "hf://owner/name/model.safetensors", "sha256": "0" * 64},
        {},
        f"has SHA-256 {DIGEST}, and 0000",
        True,
    ),
    "no such model": ({"source": "hf://owner/other"}, {}, "has no such model, or it is private", True),
    "no such revision": ({"source": "hf://owner/name@v9"}, {}, "no such revision", True),
    "nothing that matches": ({"source": "hf://owner/name", "include": "*.gguf"}, {}, r"no files that match \*", True),
    "a file that is not what the hub says": (
        {"source": "hf://owner/name"},
        {"lies_about": "config.json"},
        "config.json of hf://owner/name has SHA-256",
        False,
    ),
    "access refused": ({"source": "hf://owner/name"}, {"statuses": [403] * 20}, "HTTP 403", True),
}


@pytest.mark.parametrize("case", HUB_REFUSALS)
def test_what_a_hub_refuses(case: str, repository: Files, target: Path) -> None:
    arguments, behaviour, words, final = HUB_REFUSALS[case]
    for name, value in behaviour.items():
        setattr(repository, name, value)
    with pytest.raises(FetchError, match=words) as caught:
        fetch(asked(target=target, **arguments))
    assert caught.value.final is final


def test_a_file_that_is_not_what_the_hub_says_is_not_kept(repository: Files, target: Path) -> None:
    repository.lies_about = "config.json"
    with pytest.raises(FetchError):
        fetch(asked("hf://owner/name", target))
    assert not (target / "config.json").exists()
    repository.lies_about = ""
    assert fetch(asked("hf://owner/name", target)).fetched


def test_a_hub_that_nobody_reaches(repository: Files, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its host is named; what was fetched before is used."""
    fetch(asked("hf://owner/name", target))
    with serving(Files()) as gone:
        monkeypatch.setattr(hub, "ENDPOINT", gone)
    assert not fetch(asked("hf://owner/name", target)).fetched
    with pytest.raises(FetchError, match=f"cannot reach {gone.removeprefix('http://')}: .*NetworkPolicy") as caught:
        fetch(asked("hf://owner/name", target / "elsewhere"))
    assert not caught.value.final


# --- directories, object stores -------------------------------------------------------------------------------------


def folder(source: Path, target: Path, sha256: str | None = None) -> Request:
    return Request("model", str(source), target, sha256)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "other" / "model"
    (directory / "shards").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "shards" / "1.safetensors").write_bytes(CONTENT)
    (directory / KEPT_DIRECTORY).mkdir()
    (directory / KEPT_DIRECTORY / "record.json").write_text("{}")
    return directory


def test_a_directory_is_copied_once(model: Path, target: Path) -> None:
    assert fetch(folder(model, target)).fetched
    assert (target / "shards" / "1.safetensors").read_bytes() == CONTENT
    assert names_in(target) == ["config.json", "shards"]
    assert not fetch(folder(model, target)).fetched
    (model / "config.json").write_text('{"changed": true}')
    kept = (target / "shards" / "1.safetensors").stat().st_ino
    assert fetch(folder(model, target)).fetched
    assert (target / "config.json").read_text() == '{"changed": true}'
    assert (target / "shards" / "1.safetensors").stat().st_ino == kept, "what has not changed is not copied again"


def test_links_are_followed_as_in_a_hub_s_cache(model: Path, target: Path) -> None:
    (model / "link.safetensors").symlink_to(model / "shards" / "1.safetensors")
    fetch(folder(model, target))
    assert not (target / "link.safetensors").is_symlink()
    assert (target / "link.safetensors").read_bytes() == CONTENT


def test_one_file_and_its_digest(model: Path, target: Path) -> None:
    fetch(folder(model / "shards" / "1.safetensors", target, DIGEST))
    assert names_in(target) == ["1.safetensors"]
    with pytest.raises(FetchError, match="is wanted"):
        fetch(folder(model / "config.json", target, DIGEST))
    with pytest.raises(FetchError, match="holds 2 files, and sha256 is of one"):
        fetch(folder(model, target / "all", DIGEST))


def test_a_directory_that_is_not_there_or_empty(tmp_path: Path, target: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (("none", "is not there"), ("empty", "holds no file")):
        with pytest.raises(FetchError, match=words) as caught:
            fetch(folder(tmp_path / name, target))
        assert caught.value.final


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    with object_server() as objects:
        for name, value in credentials(objects).items():
            monkeypatch.setenv(name, value)
        objects.content = {"bucket/data/a.parquet": b"a" * 10, "bucket/data/deep/b.parquet": CONTENT, "bucket/x": b""}
        yield objects


def stored(source: str, target: Path, sha256: str | None = None) -> Request:
    return Request("dataset", source, target, sha256)


@pytest.mark.parametrize("source", ["s3://bucket/data", "s3://bucket/data/"])
def test_objects_below_a_prefix(source: str, objects: Objects, target: Path) -> None:
    request = stored(source, target)
    assert fetch(request).fetched
    assert names_in(target) == ["a.parquet", "deep"]
    assert (target / "deep" / "b.parquet").read_bytes() == CONTENT
    assert not fetch(request).fetched
    objects.content["bucket/data/c.parquet"] = b"c"
    objects.requests.clear()
    assert fetch(request).fetched
    asked = {request for request in objects.requests if request.startswith("GET /bucket/data/")}
    assert asked == {"GET /bucket/data/c.parquet"}, "what is there is not fetched again"


def test_one_object_with_its_digest(objects: Objects, target: Path) -> None:
    fetch(stored("s3://bucket/data/deep/b.parquet", target, DIGEST))
    assert names_in(target) == ["b.parquet"]
    with pytest.raises(FetchError, match="is not the one file with SHA-256"):
        fetch(stored("s3://bucket/data/a.parquet", target / "other", DIGEST))


# What is asked for, what the store refuses, what is said, and whether trying again cannot help.
STORE_FAILURES: dict[str, tuple[str, str | None, str, bool]] = {
    "nothing there": ("s3://bucket/other", None, "holds nothing", True),
    "no access": ("s3://bucket/data", "list-type", r"runtime\.envFrom", True),
    "credentials in the address": ("s3://key:word@bucket/data", None, r"runtime\.envFrom", True),
    "a scheme of nobody": ("floppy://bucket/data", None, "nothing in this image can use it", True),
}


@pytest.mark.parametrize("case", STORE_FAILURES)
def test_what_a_store_cannot_give(case: str, objects: Objects, target: Path) -> None:
    source, refused, words, final = STORE_FAILURES[case]
    objects.refuse = refused
    with pytest.raises(FetchError, match=words) as caught:
        fetch(stored(source, target))
    assert caught.value.final is final
    assert "word" not in str(caught.value)


def test_objects_of_a_store_that_fsspec_knows(target: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/data/a.parquet": b"a" * 10, "/bucket/data/deep/b.parquet": b"b" * 20})
    fetch(stored("memory://bucket/data", target))
    assert names_in(target) == ["a.parquet", "deep"]
    store.store.clear()


# --- volumes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("file systems can be mounted by root only")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_volume_without_room_is_said_before_anything_is_fetched(files: Files, url: str, small_volume: Path) -> None:
    source = web(url, small_volume / "data")
    with pytest.raises(FetchError, match=r"VolumeFull: 3\.0 MB are needed and 1\.0 MB are free") as caught:
        fetch(source.request, source)
    assert caught.value.final
    assert len(files.gets()) == 1


def test_a_volume_that_fills_up_on_the_way(small_volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small_volume / "filler").write_bytes(b"x" * 900_000)
    monkeypatch.setattr("rltrain_trainer.fetch.web.demand_room", lambda *_: None)
    with serving(Files({"train.parquet": CONTENT})) as address:
        source = web(f"{address}/train.parquet", small_volume / "data")
        with pytest.raises(FetchError, match=r"VolumeFull: .*No space left on device") as caught:
            fetch(source.request, source)
    assert caught.value.final


def test_two_jobs_at_once_fetch_once(tmp_path: Path) -> None:
    files = Files({"train.parquet": CONTENT}, stall_seconds=0.5)
    with serving(files) as address:
        command = [
            sys.executable, "-m", "rltrain_trainer.fetch", "dataset",
            "--from", f"{address}/train.parquet", "--to", str(tmp_path / "to"), "--sha256", DIGEST,
        ]  # fmt: skip
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        pods = [subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [pod.communicate(timeout=60)[1] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], said
    assert sorted("there already" in words for words in said) == [False, True]
    assert len(files.gets()) == 1


SIZES = {0: "0 bytes", 999: "999 bytes", 1000: "1.0 kB", 3_000_000: "3.0 MB", 12_340_000_000: "12.3 GB"}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_as_people_write_them(size: int) -> None:
    assert shown(size) == SIZES[size]


def test_the_record_is_for_people_too(url: str, target: Path) -> None:
    source = web(url, target)
    fetch(source.request, source)
    (record,) = (target / KEPT_DIRECTORY).glob("*.json")
    document = json.loads(record.read_text())
    assert document["source"] == url
    assert document["files"] == {"train.parquet": {"size": len(CONTENT), "sha256": DIGEST}}


# --- how far it is --------------------------------------------------------------------------------------------------


def test_arrivals_before_and_after_the_source_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "another").write_bytes(b"x" * 70)
    arrivals = Arrivals(tmp_path)
    (tmp_path / "shard").write_bytes(b"x" * 5)
    assert arrivals.progress() == FetchProgress(5)
    arrivals.expect(30, missing=25)
    assert arrivals.progress() == FetchProgress(5, 30)
    (tmp_path / "part").write_bytes(b"x" * 20)
    assert arrivals.progress() == FetchProgress(25, 30)
    (tmp_path / "part").write_bytes(b"x" * 26)
    assert arrivals.progress() == FetchProgress(30, 30), "never more than the whole"
    (tmp_path / "another").unlink()
    assert arrivals.progress() == FetchProgress(0, 30), "never less than nothing"


def test_a_file_that_breaks_off_is_as_far_as_its_part(files: Files, url: str, target: Path) -> None:
    """The next pod begins where the last one ended, and says so."""
    files.break_after = 1_000_000
    first, arrivals = web(url, target, tries=1), Arrivals(target)
    with pytest.raises(FetchError):
        fetch(first.request, first, arrivals)
    (part,) = (target / KEPT_DIRECTORY).glob("*.part")
    had = part.stat().st_size
    assert arrivals.progress() == FetchProgress(had, len(CONTENT))
    files.break_after = 500_000
    second, arrivals = web(url, target, tries=1), Arrivals(target)
    with pytest.raises(FetchError):
        fetch(second.request, second, arrivals)
    assert part.stat().st_size > had > 0
    assert arrivals.progress() == FetchProgress(part.stat().st_size, len(CONTENT))


@pytest.mark.parametrize("kind", ["web", "hub", "folder", "store"])
def test_every_source_says_what_it_has(
    kind: str, url: str, repository: Files, model: Path, objects: Objects, target: Path
) -> None:
    del repository, objects  # they serve
    sources = {"web": url, "hub": "hf://owner/name", "folder": str(model), "store": "s3://bucket/data"}
    arrivals = Arrivals(target)
    outcome = fetch(asked(sources[kind], target), arrivals=arrivals)
    progress, total = arrivals.progress(), outcome.record.total_bytes
    assert progress.total == total
    assert total - 1000 <= progress.bytes <= total, "small files of the fetch's own may be counted"


# --- the program ----------------------------------------------------------------------------------------------------


def run_program(arguments: list[str], tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    message = tmp_path / "message"
    message.touch()
    return subprocess.run(
        [sys.executable, "-m", "rltrain_trainer.fetch", *arguments, "--message-file", str(message)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_client_s_own_variable_names_the_hub(tmp_path: Path) -> None:
    with serving(Files(dict(MODEL))) as address:
        done = run_program(
            ["model", "--from", "hf://owner/name", "--to", str(tmp_path / "to"), "--include", "*.json"],
            tmp_path,
            HF_ENDPOINT=address,
            HF_HOME=str(tmp_path / "home"),
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to" / "config.json").read_bytes() == b"{}"
    assert "1 file, 2 bytes, fetched in" in (tmp_path / "message").read_text()


def test_the_program_ends_at_its_deadline_with_words(tmp_path: Path) -> None:
    files = Files({"train.parquet": CONTENT}, stall_seconds=30.0)
    with serving(files) as address:
        arguments = ["dataset", "--from", f"{address}/train.parquet", "--to", str(tmp_path / "to"), "--deadline", "1"]
        done = run_program(arguments, tmp_path)
    assert done.returncode == EXIT_FINAL
    message = (tmp_path / "message").read_text()
    assert "was not there after 1 s, 0 bytes have arrived and are kept: raise deadlineSeconds" in message
    assert message in done.stderr
    assert parse_progress(done.stderr) == FetchProgress(0)


def test_the_program_s_last_words_of_a_failure(tmp_path: Path) -> None:
    done = run_program(["dataset", "--from", str(tmp_path / "nowhere"), "--to", str(tmp_path / "to")], tmp_path)
    assert done.returncode == EXIT_FINAL
    assert "nowhere is not there" in (tmp_path / "message").read_text()
    assert "Traceback" not in done.stderr
