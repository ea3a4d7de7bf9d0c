"""Downloads against a real HTTP server on this machine that can misbehave in the usual ways."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from convert_weights.__main__ import main
from convert_weights.download import download
from convert_weights.sources import SOURCES

BODY = np.random.default_rng(0).bytes(1_000_003)


class Handler(BaseHTTPRequestHandler):
    """Serves `server.behaviour.body`, and notes which ranges were asked for."""

    def do_GET(self):
        behaviour, offset = self.server.behaviour, 0  # pyright: ignore[reportAttributeAccessIssue]
        asked = self.headers.get("Range")
        behaviour.ranges.append(asked)
        if behaviour.status != 200:
            self.send_error(behaviour.status)
            return
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        body = behaviour.body
        if asked and behaviour.ranged:
            offset = int(asked.removeprefix("bytes=").removesuffix("-"))
            if offset >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            shift = behaviour.range_shift
            content_range = f"bytes {offset + shift}-{len(body) - 1}/{len(body)}"
            self.send_header("Content-Range", content_range)
        else:
            self.send_response(200)
        if behaviour.content_length:
            self.send_header("Content-Length", str(len(body) - offset))
        self.end_headers()
        self.wfile.write(body[offset : behaviour.cut_at])

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of these tests


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    behaviour = SimpleNamespace(
        body=BODY, status=200, ranged=True, cut_at=None, content_length=True, ranges=[], range_shift=0
    )
    server.behaviour = behaviour  # pyright: ignore[reportAttributeAccessIssue]
    behaviour.url = f"http://127.0.0.1:{server.server_address[1]}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield behaviour
    server.shutdown()
    thread.join()
    server.server_close()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("address", ["/file", "/redirect"])
def test_whole_file_with_progress(server, tmp_path, address):
    seen = []
    url = server.url.replace("/file", address)
    path = download(url, tmp_path / "new" / "x.pt", len(BODY), progress=lambda *p: seen.append(p))
    assert path.read_bytes() == BODY
    assert files(tmp_path / "new") == ["x.pt"]
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)


def test_cut_connection_keeps_the_part_and_resumes(server, tmp_path):
    server.cut_at = 600_000
    with pytest.raises(OSError, match=r"stopped after 600,000 of 1,000,003 bytes.*same command"):
        download(server.url, tmp_path / "x.pt")
    assert files(tmp_path) == ["x.pt.part"]
    server.cut_at = None
    assert download(server.url, tmp_path / "x.pt").read_bytes() == BODY
    assert server.ranges == [None, "bytes=599999-"]
    assert files(tmp_path) == ["x.pt"]


def test_interrupt_keeps_the_part_and_resumes(server, tmp_path):
    def interrupt(received, total):
        if received > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url, tmp_path / "x.pt", progress=interrupt)
    assert (tmp_path / "x.pt.part").stat().st_size > 500_000
    assert download(server.url, tmp_path / "x.pt").read_bytes() == BODY
    assert server.ranges[1] is not None


def test_whole_part_only_gets_its_name(server, tmp_path):
    (tmp_path / "x.pt.part").write_bytes(BODY)
    assert download(server.url, tmp_path / "x.pt").read_bytes() == BODY
    assert server.ranges == [f"bytes={len(BODY) - 1}-"]


@pytest.mark.parametrize("part", [b"", BODY[:1], BODY[:999_999], BODY + b"longer"])
@pytest.mark.parametrize("ranged", [True, False])
def test_any_part_ends_in_the_same_bytes(server, tmp_path, part, ranged):
    """Also on a server without ranges, and when the part is longer than the file."""
    server.ranged = ranged
    (tmp_path / "x.pt.part").write_bytes(part)
    assert download(server.url, tmp_path / "x.pt").read_bytes() == BODY


def test_answer_for_another_range_starts_over(server, tmp_path):
    server.range_shift = 7
    (tmp_path / "x.pt.part").write_bytes(BODY[:1000])
    assert download(server.url, tmp_path / "x.pt").read_bytes() == BODY
    assert server.ranges == ["bytes=999-", None]


def test_server_that_states_no_size(server, tmp_path):
    server.content_length = False
    assert download(server.url, tmp_path / "x.pt", len(BODY)).read_bytes() == BODY
    server.cut_at = 600_000
    with pytest.raises(OSError, match="stopped after 600,000 of 1,000,003"):
        download(server.url, tmp_path / "y.pt", len(BODY))
    with pytest.raises(OSError, match="stopped after 600,000 bytes"):
        download(server.url, tmp_path / "z.pt", min_size=700_000)
    assert files(tmp_path) == ["x.pt", "y.pt.part", "z.pt.part"]


@pytest.mark.parametrize(("sizes", "expected"), [({"size": 5}, "5"), ({"min_size": 2_000_000}, "at least 2,000,000")])
def test_wrong_size_is_refused_before_the_download(server, tmp_path, sizes, expected):
    with pytest.raises(ValueError, match=f"has 1,000,003 bytes, the checkpoint has {expected}"):
        download(server.url, tmp_path / "x.pt", **sizes)
    assert files(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 503])
def test_http_errors_are_named(server, tmp_path, status):
    server.status = status
    with pytest.raises(OSError, match=rf"/file: the server answers {status} "):
        download(server.url, tmp_path / "x.pt")
    assert files(tmp_path) == []


def test_full_disk_is_noticed_before_the_download(server, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("convert_weights.download.shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"has 1,000 bytes free, 1,000,003 are needed"):
        download(server.url, tmp_path / "x.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_disk_that_fills_up_during_the_download(server, tmp_path):
    (tmp_path / "x.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"stopped after .*No space left.*the same command"):
        download(server.url, tmp_path / "x.pt")


def test_no_network_and_no_web_address(tmp_path):
    with pytest.raises(OSError, match=r"cannot be reached.*is there a network\?"):
        download("http://127.0.0.1:9/file", tmp_path / "x.pt")
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/x", "x.pt"):
        with pytest.raises(ValueError, match="not an http or https address"):
            download(url, tmp_path / "x.pt")
    assert files(tmp_path) == []


def test_known_sources_are_encrypted_and_of_their_published_size():
    sizes = {name: round(source.parameter_bytes / 1e9, 2) for name, source in SOURCES.items()}
    large, ddpm = {"celeba256_250000", "places256_300000"}, {"ddpm-cifar10-32": 0.14, "ffdnet_color": 0.0}
    for name, size in sizes.items():
        other = 2.21 if name in large or name.startswith(("imagenet", "lsun")) else 0.37
        assert size == ddpm.get(name, 0.45 if name.startswith("ddpm") else other), name
    assert all(source.url.startswith("https://") for source in SOURCES.values())


def test_list_prints_every_source(capsys):
    assert main(["list"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SOURCES)
    (places,) = (line for line in lines if line.startswith("places256_300000"))
    assert places.split()[1:3] == ["2.21", "GB"]
    assert "photographs of whole scenes" in places
    assert "licence: CC BY-NC-SA 4.0" in places
    assert SOURCES["places256_300000"].url in places
    assert last.startswith("`download` fetches ffhq-256 and imagenet-256")


def test_one_process_at_a_time(server, tmp_path):
    def second(received, total):
        with pytest.raises(OSError, match="another process downloads to"):
            download(server.url, tmp_path / "x.pt")

    assert download(server.url, tmp_path / "x.pt", progress=second).read_bytes() == BODY
    assert len(server.ranges) == 1


def test_a_file_that_came_into_being_meanwhile_stays(server, tmp_path):
    def meanwhile(received, total):
        (tmp_path / "x.pt").write_text("mine")

    with pytest.raises(FileExistsError, match="kept at"):
        download(server.url, tmp_path / "x.pt", progress=meanwhile)
    assert (tmp_path / "x.pt").read_text() == "mine"
    assert (tmp_path / "x.pt.part").read_bytes() == BODY
