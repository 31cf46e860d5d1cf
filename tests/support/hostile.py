"""What a server must not let in: URLs, pictures, and a web server that misbehaves."""

from __future__ import annotations

import http.server
import io
import struct
import time
import zlib
from typing import Any

from PIL import Image

PRIVATE_URLS = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0/",
    "http://0.0.0.0/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://①②⑦.⓪.⓪.①/",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a00:1]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[fd12:3456::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://10.0.0.1/",
    "http://10.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://[::ffff:169.254.169.254]/",
    "http://192.0.0.1/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
]
NO_URLS = [
    "http://user@127.0.0.1/",
    "http://8.8.8.8@127.0.0.1/",
    "http://user:password@8.8.8.8/",
    "http://127.0.0.1\\@8.8.8.8/",
    "http://8.8.8.8 /",
    "http://8.8.8.8/\r\nHost: localhost",
    "http://8.8.8.8/\tx",
    "http://8.8.8.8:22/",
    "http://8.8.8.8:6379/",
    "http://8.8.8.8:99999/",
    "http://8.8.8.8:x/",
    "http:///clip.mp4",
    "http://",
    "http:127.0.0.1",
    "https://",
    "http://[/",
    "http://[::1/",
    "http://" + "a" * 300 + ".com/",
    "ftp://8.8.8.8/clip.mp4",
    "gopher://127.0.0.1:6379/_INFO",
    "rtsp://8.8.8.8/stream",
    "dict://127.0.0.1/",
    "jar:http://127.0.0.1!/",
    "concat:http://127.0.0.1/|x",
    "subfile,,start,0,end,9,,:/etc/passwd",
    "pipe:0",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://localhost/etc/passwd",
    "file:/etc/passwd",
    "file:etc/passwd",
    "/etc/passwd",
    "etc/passwd",
    "../../etc/passwd",
    "~/.ssh/id_rsa",
    "\\\\host\\share",
    "/dev/zero",
    "/proc/self/environ",
    "//127.0.0.1/clip.mp4",
    "a\0b",
    "data:video/mp4;base64,?",
    "data:video/mp4;base64,",
    "data:video/mp4,AAAA",
    "data:,",
    "javascript:alert(1)",
    "blob:null/1",
]


class Origin(http.server.BaseHTTPRequestHandler):
    """A web server on loopback with redirects, endless and slow files."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            if self.path == "/endless":
                while True:
                    self.wfile.write(b"x" * 65536)
            elif self.path == "/slow":
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            else:
                self.wfile.write(b"content")
        except OSError:
            pass

    def log_message(self, *_: Any) -> None: ...


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG that states a size, whatever its data are."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + box(b"IHDR", head) + box(b"IDAT", data) + box(b"IEND", b"")


def saved(form: str, size: tuple[int, int] = (16, 16)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size).save(content, form)
    return content.getvalue()


def bomb() -> bytes:
    """Some kilobytes that are 16 million pixels."""
    row = b"\0" + b"\0" * 3 * 4096
    return png(4096, 4096, zlib.compress(row * 4096, 9))
