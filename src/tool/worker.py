"""The zygote of the sandbox: imports the mathematical packages once, then forks a child for every program.

It starts under Landlock and a seccomp filter already and talks over one socket, descriptor 3, which no child keeps.
A child takes its limits, its own narrower Landlock domain and the program's seccomp filter, tells the zygote so through
a pipe that it then closes, and only then reads what it runs; the zygote itself never holds a program's text.
"""
import sys

sys.path[:] = [entry for entry in sys.path if entry.startswith("/")]

import ast, atexit, ctypes, gc, io, linecache, os, resource, select, signal, socket, struct, traceback, types, zlib

OUT_OF_MEMORY = 113  # exit code after a MemoryError
NAME = "program.py"
REQUEST = struct.Struct("@cQQQQ")  # "R", address space, CPU seconds, file size, open files; then the folder
REPLY = struct.Struct("@cBidQ")  # "D", was it set up, wait status, CPU seconds, peak memory in KiB

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 4, 22, 2
SYS_PIDFD_OPEN, SYS_LANDLOCK_RESTRICT_SELF = 434, 446

libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def system_call(number, what, *arguments):
    return checked(libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)), what)


def control_process(option, what, *arguments):
    return checked(libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, arguments), *[ctypes.c_ulong(0)] * (4 - len(arguments))), what)


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


class Output(io.FileIO):
    """Standard output that knows whether anything was written."""

    written = 0

    def write(self, data):
        count = super().write(data)
        self.written += count or 0
        return count


def run(source):
    """Run the program as `__main__`; the exit code."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    raw = Output(1, "w", closefd=False)
    out = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace")
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = sys.__stdout__ = out
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True)
    sys.argv = [NAME]
    code = 0
    try:
        text = source.decode("utf-8")
        linecache.cache[NAME] = (len(text), None, text.splitlines(True), NAME)
        tree = ast.parse(text, NAME)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, NAME, "exec", dont_inherit=True), module.__dict__)
        if last is not None:
            value = eval(compile(last, NAME, "eval", dont_inherit=True), module.__dict__)
            out.flush()
            if value is not None and not raw.written:
                print(repr(value), file=out)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        code = 0 if end.code is None else end.code & 255 if isinstance(end.code, int) else 1
    except MemoryError as error:
        code = OUT_OF_MEMORY
        show(error)
    except BaseException as error:
        code = 1
        show(error)
    try:
        atexit._run_exitfuncs()
    except BaseException:
        pass
    try:
        out.flush()
    except BaseException:
        code = code or 1
    return code


def show(error):
    """The traceback without the frames of this file."""
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != NAME:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
    except BaseException:
        os.write(2, type(error).__name__.encode() + b"\n")


def seed(source):
    number = zlib.crc32(source)
    if "random" in sys.modules:
        sys.modules["random"].seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)


def child(zygote, descriptors, done, memory, cpu, file_size, open_files, folder):
    """Everything between the fork and the program."""
    source, out, err, *ruleset = descriptors
    control_process(PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG", signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(70)
    os.dup2(out, 1)
    os.dup2(err, 2)
    text = b""
    while block := os.read(source, 1 << 20):
        text += block
    os.chdir(folder)
    os.environ.clear()
    os.environ.update({"HOME": os.fsdecode(folder), "TMPDIR": os.fsdecode(folder), "LANG": "C.UTF-8"})
    seed(text)
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, file_size), (resource.RLIMIT_NPROC, 0),
                         (resource.RLIMIT_NOFILE, open_files)):
        resource.setrlimit(limit, (value, value))
    # SIGXCPU says why it ended; who ignores that is killed a second later.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    if ruleset:
        system_call(SYS_LANDLOCK_RESTRICT_SELF, "landlock_restrict_self", ruleset[0], 0)
    control.detach()
    os.closerange(3, done)
    os.closerange(done + 1, 256)
    if filter_bytes:
        control_process(PR_SET_SECCOMP, "PR_SET_SECCOMP", SECCOMP_MODE_FILTER, ctypes.addressof(filter_program))
    os.write(done, b"G")
    os.close(done)
    return text


def supervise(pid):
    """Wait for the child; anything said on the socket meanwhile means that it is to be killed."""
    handle = system_call(SYS_PIDFD_OPEN, "pidfd_open", pid, 0)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(handle, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == handle:
                _, status, usage = os.wait4(pid, 0)
                os.close(handle)
                return status, usage
            gone = not control.recv(16)
            os.kill(pid, signal.SIGKILL)
            if gone:
                os._exit(0)


def serve():
    zygote = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 8192, 4)
        if not message:
            os._exit(0)
        if message[:1] != b"R":
            for descriptor in descriptors:
                os.close(descriptor)
            continue  # a kill for a program that ended by itself
        _, memory, cpu, file_size, open_files = REQUEST.unpack(message[:REQUEST.size])
        ready, done = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                text = child(zygote, descriptors, done, memory, cpu, file_size, open_files, message[REQUEST.size:])
                code = run(text)
            except BaseException as error:
                show(error)
            finally:
                os._exit(code)
        for descriptor in (*descriptors, done):
            os.close(descriptor)
        status, usage = supervise(pid)
        prepared = os.read(ready, 1) == b"G"
        os.close(ready)
        control.send(REPLY.pack(b"D", prepared, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))


def start():
    """Take the settings, import the packages, say what is there."""
    control_process(PR_SET_DUMPABLE, "PR_SET_DUMPABLE", 0)
    settings = control.recv(1 << 16).split(b"\n")
    sys.path[:] = [os.fsdecode(entry) for entry in settings]
    filter_bytes = control.recv(1 << 16)[1:]
    import bisect, cmath, collections, copy, dataclasses, datetime, decimal, enum, fractions, functools, heapq  # noqa
    import itertools, json, math, operator, random, re, statistics, string, time, typing  # noqa

    found = ["python " + sys.version.split()[0]]
    for name in ("numpy", "mpmath", "sympy"):
        try:
            found.append(f"{name} {__import__(name).__version__}")
        except ImportError:
            pass
    if "numpy" in sys.modules:
        import numpy.linalg, numpy.random  # noqa
    gc.collect()
    gc.freeze()
    control.send("\n".join(found).encode())
    return filter_bytes


control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=3)
filter_bytes = start()
filter_buffer = ctypes.create_string_buffer(filter_bytes, max(len(filter_bytes), 1))
filter_program = Program(len(filter_bytes) // 8, ctypes.addressof(filter_buffer))
serve()
