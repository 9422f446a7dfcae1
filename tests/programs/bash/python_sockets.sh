# status: 0
# needs: /usr/bin/python3
cat >"$HOME/sockets.py" <<'END'
import array, asyncio, multiprocessing, os, socket, socketserver, threading
from multiprocessing.managers import BaseManager

async def children():
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    out, _ = await process.communicate(b"y" * 300000)
    print("asyncio", len(out), process.returncode)

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())

def serve(path):
    with socketserver.UnixStreamServer(path, Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for word in b"one\n", b"two\n":
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(word)
                print("server", client.makefile("rb").read())
        server.shutdown()
        thread.join()

def pass_descriptor():
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
        os.write(fd, b"through a passed descriptor")
        os._exit(0)
    socket.send_fds(ours, [b"x"], [writer])
    print(os.read(reader, 100), os.waitpid(pid, 0)[1])

if __name__ == "__main__":
    asyncio.run(children())
    path = os.environ["HOME"] + "/server.sock"
    if os.path.exists(path):
        os.unlink(path)
    serve(path)
    pass_descriptor()
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=queue.put, args=("queued",))
    child.start()
    print(queue.get())
    child.join()
    with multiprocessing.Manager() as manager:
        shared = manager.dict(a=1)
        shared["b"] = 2
        print(dict(shared))
END
exec /usr/bin/python3 "$HOME/sockets.py"
