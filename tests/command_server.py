"""``gpuannot`` without the two seconds that importing torch takes at every call: a process that has imported it forks for each.

``python command_server.py SOCKET`` serves; ``client_script`` is the text of a program that hands it a command with its
folder, arguments and standard streams, and ends with its exit code.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def serve(address: str) -> None:
    from gpuannot.cli.main import main  # noqa: F401

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection:
                request, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
                child = os.fork()
                if child == 0:
                    _run(json.loads(request), streams)
                for stream in streams:
                    os.close(stream)
                _, status = os.waitpid(child, 0)
                connection.sendall(bytes([os.waitstatus_to_exitcode(status) % 256]))


def _run(request: dict[str, list[str] | str], streams: list[int]) -> None:
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(str(request["folder"]))
        sys.argv = ["gpuannot", *request["arguments"]]
        from gpuannot.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        os._exit(code)


def client_script(address: str) -> str:
    return f"""#!{sys.executable} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps({{"folder": os.getcwd(), "arguments": sys.argv[1:]}}).encode()
    socket.send_fds(server, [request], [0, 1, 2])
    sys.exit(server.recv(1)[0])
"""


if __name__ == "__main__":
    serve(sys.argv[1])
