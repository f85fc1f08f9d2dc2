//! At the sandbox's own workings, and at what comes after.

use std::time::{Duration, Instant};

use super::End::{Denied, Fails, Is, Says};
use super::{Row, Sandbox, SandboxConfig, Status, alone, attacks, descendants, strict};

#[test]
fn protocol() {
    alone("sandbox_attacks::protocol::protocol", |folder| {
        attacks(folder, ROWS)
    });
}

/// Each pair of programs runs one after the other on one worker; the second must not find anything of the first.
#[test]
fn nothing_comes_through_to_the_next_program() {
    alone(
        "sandbox_attacks::protocol::nothing_comes_through_to_the_next_program",
        |_| {
            let sandbox = Sandbox::new(&strict()).unwrap();
            for (name, first, second) in [
                ("names", "left = 1", "print('left' in globals())"),
                (
                    "builtins",
                    "import builtins\nbuiltins.left = 1",
                    "import builtins\nprint(hasattr(builtins, 'left'))",
                ),
                (
                    "modules",
                    "import math\nmath.pi = 3",
                    "import math\nprint(math.pi == 3)",
                ),
                (
                    "imports",
                    "import quopri",
                    "import sys\nprint('quopri' in sys.modules)",
                ),
                (
                    "variables",
                    "import os\nos.environ['LEFT'] = '1'\nos.putenv('LEFT', '1')",
                    "import os\nprint('LEFT' in os.environ)",
                ),
                (
                    "files",
                    "open('left', 'w').write('x')",
                    "import os\nprint(os.listdir() != [])",
                ),
                (
                    "descriptors",
                    "import os\nos.dup2(1, 9)",
                    "import os\ntry:\n    os.fstat(9)\n    print(True)\nexcept OSError:\n    print(False)",
                ),
                (
                    "handlers",
                    "import signal\nsignal.signal(10, print)",
                    "import signal\nprint(signal.getsignal(10) == print)",
                ),
                (
                    "timers",
                    "import signal\nsignal.alarm(1)",
                    "import signal\nprint(signal.alarm(0) != 0)",
                ),
                (
                    "recursion limits",
                    "import sys\nsys.setrecursionlimit(77)",
                    "import sys\nprint(sys.getrecursionlimit() == 77)",
                ),
                (
                    "randomness",
                    "import random\nrandom.seed(5)",
                    "import random\na = random.getstate()\nrandom.seed(5)\nprint(a == random.getstate())",
                ),
                (
                    "its text",
                    "text = 'telltale of the first program'",
                    "import gc\nneedle = ''.join(['telltale of ', 'the first'])\n\
                     print(any(isinstance(o, (str, bytes)) and needle in str(o) and len(o) > len(needle) for l in gc.get_objects() for o in gc.get_referents(l)))",
                ),
            ] {
                let results = sandbox.run(&[first]);
                assert_eq!(results[0].status, Status::Finished, "{name}: {results:?}");
                let results = sandbox.run(&[second]);
                assert_eq!(results[0].stdout, "False\n", "{name}: {results:?}");
            }
        },
    );
}

/// A worker that dies is replaced, and the loss is told apart from an answer.
#[test]
fn a_lost_worker_is_replaced() {
    alone(
        "sandbox_attacks::protocol::a_lost_worker_is_replaced",
        |_| [true, false].into_iter().for_each(lose_workers),
    );
}

fn lose_workers(namespaces: bool) {
    let config = SandboxConfig {
        namespaces,
        wall_seconds: 60.0,
        ..strict()
    };
    let sandbox = Sandbox::new(&config).unwrap();
    let state = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // SAFETY: a number; our own child, not waited for yet.
    let kill = |pid: u32| unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    let first = descendants();
    assert_eq!(first.len(), 1, "one worker");
    // Between programs: nobody notices.
    kill(first[0]);
    while !state(first[0]).contains(") Z ") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let next = sandbox.run(&["print(6 * 7)"]);
    assert_eq!(next[0].stdout, "42\n", "{next:?}");
    let second = descendants();
    assert_ne!(second, first);
    // During a program: the program goes with it and has no result, the next one has.
    let lost = std::thread::scope(|scope| {
        let running = scope.spawn(|| sandbox.run(&["import time\ntime.sleep(60)"]));
        while descendants().len() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(second[0]);
        running.join().unwrap()
    });
    assert_eq!(lost[0].status, Status::Lost, "{lost:?}");
    assert!(lost[0].seconds < 30.0, "{lost:?}");
    let next = sandbox.run(&["print(6 * 7)"]);
    assert_eq!(next[0].stdout, "42\n", "{next:?}");
    let limit = Instant::now() + Duration::from_secs(5);
    while descendants().len() != 1 && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(descendants().len(), 1, "the program went with its worker");
    drop(sandbox);
    assert!(descendants().is_empty(), "workers end with their sandbox");
}

const ROWS: &[Row] = &[
    Row(
        "a forged result",
        "import struct\nreply = struct.pack('@cBidQ', b'D', 1, 0, 0.0, 0)\nfor fd in range(3, 64):\n    try:\n        os.write(fd, reply)\n        print('BREACH', fd)\n    except OSError:\n        pass\nraise ValueError",
        Is(Status::Raised { code: 1 }),
    ),
    Row(
        "a forged result by the socket's calls",
        "for fd in range(64):\n    if libc.send(fd, b'D' * 32, 32, 0) >= 0:\n        print('BREACH', fd)\nprint('DENIED')",
        Denied(1),
    ),
    Row(
        "the worker's socket by its frames",
        "frame = sys._getframe()\nwhile frame.f_back:\n    frame = frame.f_back\nattempt(frame.f_globals['control'].send, b'D' * 32)",
        Denied(1),
    ),
    Row(
        "going back into the worker's loop",
        "frame = sys._getframe()\nwhile frame.f_back:\n    frame = frame.f_back\nattempt(frame.f_globals['serve'])",
        Denied(1),
    ),
    Row(
        "success after a crash",
        "import atexit\natexit.register(lambda: os._exit(0))\natexit.register(print, 'x')\nraise ValueError",
        Says("ValueError"),
    ),
    Row(
        "closing everything",
        "os.closerange(0, 64)\nprint('x')",
        Fails,
    ),
    Row(
        "a stream put in place of another",
        "os.dup2(2, 1)\nraise SystemExit(3)",
        Is(Status::Raised { code: 3 }),
    ),
    Row(
        "reading its own output",
        "try:\n    os.read(1, 10)\n    print('BREACH')\nexcept OSError:\n    print('DENIED')",
        Denied(1),
    ),
    Row(
        "reading the log",
        "for fd in range(2, 64):\n    try:\n        os.pread(fd, 10, 0)\n        print('BREACH')\n    except OSError:\n        pass\nprint('DENIED')",
        Denied(1),
    ),
    Row(
        "the environment",
        "print('DENIED', dict(os.environ))\nlibc.getenv.restype = ctypes.c_char_p\nprint(libc.getenv(b'ATP_SANDBOX_TEST_SECRET'), libc.getenv(b'PATH'))",
        Says("None None"),
    ),
    // Where the kernel put the strings when Python was started: after the last argument, up to the program's name.
    // Taking a variable away removes its pointer, not its text.
    Row(
        "the environment in memory",
        "end = ctypes.c_void_p.in_dll(libc, '__libc_stack_end').value\n\
         words = ctypes.cast(end, ctypes.POINTER(ctypes.c_void_p))\n\
         at, texts = words[words[0]], []\n\
         while len(texts) < 500 and not (texts and texts[-1].startswith(b'/')):\n    \
             text = ctypes.string_at(at)\n    texts.append(text)\n    at += len(text) + 1\n\
         print(b' '.join(texts[1:]).decode()[:4000])",
        Says("PYTHONHASHSEED=0"),
    ),
    Row(
        "the arguments",
        "print(sys.argv, sys.orig_argv[:4])",
        Is(Status::Finished),
    ),
    Row(
        "standard input",
        "print(repr(sys.stdin.read()), input() if False else 'nothing')",
        Says("'' nothing"),
    ),
    Row("a text with zero bytes", "exec('a\\0b')", Fails),
    Row(
        "an exit code of the sandbox",
        "os._exit(70)",
        Is(Status::Raised { code: 70 }),
    ),
    Row(
        "a signal to itself",
        "attempt(os.kill, os.getpid(), 9)",
        Denied(1),
    ),
];
