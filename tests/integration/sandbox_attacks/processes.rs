//! At processes: making some, staying on, or reaching into others.

use super::End::{Denied, Fails, Is};
use super::{Row, Status, alone, attacks};

#[test]
fn processes() {
    alone("sandbox_attacks::processes::processes", |folder| {
        attacks(folder, ROWS)
    });
}

const ROWS: &[Row] = &[
    Row("a fork bomb", "for _ in range(6):\n    os.fork()", Fails),
    Row(
        "a fork bomb that goes on",
        "for _ in range(6):\n    try:\n        os.fork()\n        print('BREACH')\n    except OSError:\n        pass\nprint('DENIED')",
        Denied(1),
    ),
    Row(
        "a child by number",
        "call($SYS_clone$, 17, 0, 0, 0, 0)\ncall($SYS_clone3$, ctypes.create_string_buffer(88), 88)",
        Denied(2),
    ),
    Row(
        "a child with namespaces",
        "call($SYS_clone$, 0x10000011, 0, 0, 0, 0)",
        Denied(1),
    ),
    Row(
        "a thread bomb",
        "import threading, time\nfor _ in range(200):\n    threading.Thread(target=time.sleep, args=(9,)).start()",
        Fails,
    ),
    Row(
        "one thread",
        "import threading\nattempt(threading.Thread(target=print, args=('BREACH',)).start)",
        Denied(1),
    ),
    Row(
        "a pool of processes",
        "import multiprocessing\nattempt(multiprocessing.Process(target=print).start)",
        Denied(1),
    ),
    Row(
        "a daemon",
        "import time\ndef daemon():\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(60)\nattempt(daemon)",
        Denied(1),
    ),
    Row(
        "a session of its own",
        "attempt(os.setsid)\nattempt(os.setpgid, 0, 0)",
        Denied(2),
    ),
    Row(
        "a shell",
        "attempt(os.execv, '/bin/sh', ['sh', '-c', 'echo BREACH'])",
        Denied(1),
    ),
    Row(
        "a shell by system",
        "print('DENIED' if os.system('echo BREACH') != 0 else 'ran')",
        Denied(1),
    ),
    Row(
        "a shell by subprocess",
        "import subprocess\nattempt(subprocess.run, ['/bin/echo', 'BREACH'])",
        Denied(1),
    ),
    Row(
        "a shell by posix_spawn",
        "attempt(os.posix_spawn, '/bin/echo', ['echo', 'BREACH'], {})",
        Denied(1),
    ),
    Row(
        "Python again",
        "attempt(os.execv, sys.executable, ['python', '-c', 'print(\"BREA\" + \"CH\")'])",
        Denied(1),
    ),
    Row(
        "a program in memory",
        "call($SYS_memfd_create$, b'x', 0)\ncall($SYS_execve$, b'/bin/sh', 0, 0)",
        Denied(2),
    ),
    Row(
        "a program by descriptor",
        "call($SYS_execveat$, 0, b'', 0, 0, 0x1000)",
        Is(Status::Refused),
    ),
    Row(
        "a written program",
        "open('tool', 'wb').write(b'#!/bin/sh\\necho BREACH')\nattempt(os.execv, './tool', ['tool'])",
        Denied(1),
    ),
    Row(
        "a signal to us",
        "attempt(os.kill, $PARENT, 9)\nattempt(os.kill, $PARENT, 0)\nattempt(os.killpg, $PARENT, 9)",
        Denied(3),
    ),
    Row(
        "a signal to all",
        "attempt(os.kill, -1, 23)\nattempt(os.kill, 0, 23)",
        Denied(2),
    ),
    Row(
        "a signal to the worker",
        "attempt(os.kill, os.getppid(), 9)\nattempt(os.kill, os.getppid(), 19)",
        Denied(2),
    ),
    Row(
        "a signal by other calls",
        "call($SYS_tgkill$, os.getppid(), os.getppid(), 9)\ncall($SYS_rt_sigqueueinfo$, os.getppid(), 9, ctypes.create_string_buffer(128))\n\
         call($SYS_pidfd_open$, os.getppid(), 0)\ncall($SYS_pidfd_send_signal$, 0, 9, 0, 0)",
        Denied(4),
    ),
    Row(
        "a signal that the kernel sends for it",
        "import fcntl\nreader, writer = os.pipe()\nattempt(fcntl.fcntl, reader, fcntl.F_SETOWN, os.getppid())\n\
         attempt(fcntl.fcntl, reader, 10, 9)\nattempt(fcntl.fcntl, 1, fcntl.F_SETOWN, $PARENT)",
        Denied(3),
    ),
    Row(
        "tracing the worker",
        "call($SYS_ptrace$, 16, os.getppid(), 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "tracing us",
        "call($SYS_ptrace$, 0x4206, $PARENT, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "reading the worker's memory",
        "call($SYS_process_vm_readv$, os.getppid(), 0, 0, 0, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "writing the worker's memory",
        "call($SYS_process_vm_writev$, os.getppid(), 0, 0, 0, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "the worker's descriptors",
        "call($SYS_pidfd_getfd$, 0, 3, 0)",
        Is(Status::Refused),
    ),
    Row(
        "the worker's limits",
        "call($SYS_prlimit64$, os.getppid(), 7, ctypes.create_string_buffer(16), 0)\ncall($SYS_prlimit64$, os.getppid(), 7, 0, ctypes.create_string_buffer(16))",
        Denied(2),
    ),
    Row(
        "its priority",
        "attempt(os.nice, -5)\ncall($SYS_setpriority$, 0, 0, -20)",
        Denied(2),
    ),
    Row(
        "staying on after its worker",
        "call($SYS_prctl$, 1, 0, 0, 0, 0)",
        Denied(1),
    ),
];
