"""A live stream over HLS, and one over RTSP: servers in threads, and the clip that they send."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

_PACKET = 7 * 188
"""Bytes of MPEG-TS in one RTP packet."""


def grey_clip(path: Path, frames: int = 40, fps: int = 8, **options: str) -> None:
    """Write a clip of 64 × 48 pixels whose frame i is grey of level 4·i, in the format that the name says."""
    import av

    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=fps, options={"g": str(fps), "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = np.full((48, 64, 3), 4 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *message: object) -> None:
        pass


@contextmanager
def hls_server(folder: Path) -> Iterator[str]:
    """Serve a clip as an HLS playlist with segments of a second; yield its URL."""
    grey_clip(folder / "live.m3u8", hls_time="1", hls_list_size="0")
    with http_server(folder) as url:
        yield f"{url}/live.m3u8"


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yield its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def rtsp_server(folder: Path, endless: bool = False) -> Iterator[str]:
    """Serve a clip over RTSP, its packets in the same TCP connection; yield its URL.

    Args:
        folder: for the clip.
        endless: after the clip, keep the connection open and send nothing.
    """
    grey_clip(folder / "live.ts")
    content = (folder / "live.ts").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def accept() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(
                    target=_converse, args=(link, content, ended if endless else None), daemon=True
                ).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
        finally:
            ended.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _converse(link: socket.socket, content: bytes, hold: threading.Event | None) -> None:
    """Answer OPTIONS, DESCRIBE, SETUP and PLAY, and then send the clip."""
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
    with link, link.makefile("rb") as requests, suppress(OSError):
        while method := requests.readline().decode().partition(" ")[0]:
            head = b"".join(iter(requests.readline, b"\r\n")).decode()
            number = re.search(r"CSeq: *(\d+)", head, re.IGNORECASE)
            more = {
                "OPTIONS": "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n",
                "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}",
                "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
            }.get(method, "Session: 1\r\n\r\n")
            link.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number[1] if number else 0}\r\n{more}".encode())
            if method == "PLAY":
                for count, start in enumerate(range(0, len(content), _PACKET)):
                    piece = content[start : start + _PACKET]
                    packet = struct.pack(">BBHII", 0x80, 33, count & 0xFFFF, count * 90, 1) + piece
                    link.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                if hold is not None:
                    hold.wait(60)
                return
