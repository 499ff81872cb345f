"""Published weights from a server that breaks off, lies about sizes, serves wrong bytes, or is not there."""

import http.server
import re
import threading

import pytest
from recorded import Recorded

from lucidlm.errors import WeightsError
from lucidlm.runtime import web
from lucidlm.weights import published as module
from lucidlm.weights.published import FILES, WHOLE, is_hub_name, published_folder

CONTENT = {name: (name * 999).encode() for name in FILES}


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT below /124M/; `moods` says how badly, a file's first request an entry."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.moods, self.asked = dict(CONTENT), {}, []


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        server, name = self.server, self.path.removeprefix("/124M/")
        server.asked.append((name, self.headers.get("Range")))
        moods = server.moods.get(name, [])
        mood = moods.pop(0) if moods else "well"
        if mood == "gone" or name not in server.content:
            return self.send_error(404)
        body = server.content[name]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body) - first + (7 if mood == "lies" else 0)))
        self.end_headers()
        self.wfile.write(body[first : len(body) // 2] if mood == "breaks off" else body[first:])
        return None


@pytest.fixture
def server(tmp_path, monkeypatch):
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(module, "OPENAI", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setattr(module, "FILES", {name: (len(CONTENT[name]), None) for name in FILES})
    monkeypatch.setattr(web.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def fetched(lines=None):
    return published_folder("gpt2", progress=Recorded(lines))


def contents(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_all_files_are_fetched_once_and_then_no_network_is_needed(server, tmp_path):
    folder = fetched()
    assert contents(folder) == CONTENT
    assert tmp_path / "cache" in folder.parents
    asked = len(server.asked)
    assert asked == len(FILES)
    server.shutdown()
    assert fetched() == folder
    assert len(server.asked) == asked


def test_files_that_were_put_there_by_hand_need_no_network(server, tmp_path):
    server.shutdown()
    folder = tmp_path / "cache" / "openai" / "124M"
    folder.mkdir(parents=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    assert fetched() == folder
    assert server.asked == []


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server):
    name = "model.ckpt.data-00000-of-00001"
    server.moods[name] = ["breaks off"]
    lines = []
    assert contents(fetched(lines)) == CONTENT
    assert [asked for at, asked in server.asked if at == name] == [None, f"bytes={len(CONTENT[name]) // 2}-"]
    assert any("broke off" in line for line in lines)


def test_a_later_run_goes_on_where_a_given_up_one_stopped(server):
    name = "vocab.bpe"
    server.moods[name] = ["breaks off", "gone"]
    with pytest.raises(WeightsError, match="gpt2: neither OpenAI's release"):
        fetched()
    assert contents(fetched()) == CONTENT
    assert (
        server.asked[-4:][0][0] == name or f"bytes={len(CONTENT[name]) // 2}-" in dict(server.asked).values()
    )


@pytest.mark.parametrize("name", ["hparams.json", "model.ckpt.data-00000-of-00001"])
def test_a_size_that_is_not_the_known_one_is_refused_and_not_kept(server, name, tmp_path):
    server.content[name] = CONTENT[name] + b"more"
    with pytest.raises(WeightsError, match="expected"):
        fetched()
    assert not list((tmp_path / "cache").rglob(name))
    assert not list((tmp_path / "cache").rglob(WHOLE))


def test_a_server_that_promises_more_than_it_sends_is_asked_again_until_the_size_is_right(server):
    server.moods["checkpoint"] = ["lies"]
    lines = []
    assert contents(fetched(lines)) == CONTENT
    assert any("broke off" in line for line in lines)


def test_wrong_bytes_of_a_file_whose_hash_is_known_are_refused(server, monkeypatch):
    monkeypatch.setattr(module, "FILES", {name: (None, known[1]) for name, known in FILES.items()})
    with pytest.raises(WeightsError, match="SHA-256"):
        fetched()


def test_without_a_network_a_line_says_where_to_put_the_files(server, tmp_path):
    server.shutdown()
    server.server_close()
    lines = []
    with pytest.raises(WeightsError) as caught:
        fetched(lines)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "cache" / "openai" / "124M") in message
    assert "HF_HUB_OFFLINE" in message
    assert all(name in message for name in FILES)
    assert any("trying the hub's copy" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("openai-community/gpt2", True),
        ("Qwen/Qwen3-0.6B@main", True),
        ("gpt2", False),
        ("a/b/c", False),
        ("./here/there", False),
        ("/tmp/x", False),
    ],
)
def test_names_of_the_hub_are_told_from_paths(name, is_one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_name(name) == is_one


def test_a_folder_that_is_there_is_no_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "book").mkdir(parents=True)
    assert not is_hub_name("runs/book")
