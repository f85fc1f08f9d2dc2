//! At time, memory and disk.

use super::End::{Denied, Fails, Is, Says};
use super::{Row, Sandbox, SandboxConfig, Status, alone, attacks, attacks_under, strict};

#[test]
fn resources() {
    alone("sandbox_attacks::resources::resources", |folder| {
        attacks(folder, ROWS)
    });
}

#[test]
fn time_on_the_clock() {
    alone("sandbox_attacks::resources::time_on_the_clock", |folder| {
        let limits = SandboxConfig {
            wall_seconds: 0.7,
            ..strict()
        };
        attacks_under(&limits, folder, CLOCK);
    });
}

/// Long before the clock, so that only the kernel's count of processor time can have ended it.
#[test]
fn processor_time() {
    alone("sandbox_attacks::resources::processor_time", |folder| {
        let limits = SandboxConfig {
            wall_seconds: 20.0,
            cpu_seconds: 1.0,
            ..strict()
        };
        attacks_under(&limits, folder, PROCESSOR);
        let sandbox = Sandbox::new(&limits).unwrap();
        let execution = sandbox.run(&["while True:\n    pass"]).remove(0);
        assert!(execution.seconds < 12.0, "{execution:?}");
    });
}

const ROWS: &[Row] = &[
    Row(
        "one large block",
        "bytearray(1 << 40)",
        Is(Status::OutOfMemory),
    ),
    Row(
        "many blocks",
        "kept = []\nfor _ in range(2000):\n    kept.append(bytearray(1 << 20))",
        Is(Status::OutOfMemory),
    ),
    Row(
        "a list without end",
        "kept = [1]\nwhile len(kept) < 1 << 28:\n    kept += kept",
        Is(Status::OutOfMemory),
    ),
    Row(
        "an array",
        "try:\n    import numpy\nexcept ImportError:\n    raise MemoryError\nnumpy.ones(1 << 30).sum()",
        Is(Status::OutOfMemory),
    ),
    Row(
        "mapped memory",
        "import mmap\nkept = []\ntry:\n    while len(kept) < 300:\n        kept.append(mmap.mmap(-1, 1 << 20))\n        kept[-1][::4096] = b'x' * 256\n    print('BREACH')\n\
         except (OSError, MemoryError) as error:\n    print('DENIED')",
        Denied(1),
    ),
    Row(
        "locked memory",
        "call($SYS_mlock$, ctypes.create_string_buffer(1 << 20), 1 << 20)",
        Denied(1),
    ),
    Row(
        "output without end",
        "while True:\n    print('x' * 1000)",
        Is(Status::OutputLimit),
    ),
    Row(
        "errors without end",
        "while True:\n    print('x' * 1000, file=sys.stderr)",
        Is(Status::OutputLimit),
    ),
    Row(
        "output past Python",
        "while True:\n    os.write(1, b'x' * 65536)",
        Is(Status::OutputLimit),
    ),
    Row("a large value", "'x' * (1 << 20)", Is(Status::OutputLimit)),
    Row(
        "a full disk",
        "for i in range(1000):\n    open(str(i), 'wb').write(bytes(1 << 20))\nimport time\ntime.sleep(9)",
        Is(Status::OutputLimit),
    ),
    Row(
        "a large file",
        "f = open('a', 'wb')\nattempt(lambda: [f.write(bytes(1 << 20)) for _ in range(8)])\nos._exit(0) if False else None",
        Says("File too large"),
    ),
    Row(
        "a sparse file",
        "f = open('a', 'wb')\nattempt(f.truncate, 1 << 40)\nattempt(os.posix_fallocate, f.fileno(), 0, 1 << 40)",
        Denied(2),
    ),
    Row(
        "files without end",
        "i = 0\nwhile True:\n    i += 1\n    open(str(i), 'w').close()",
        Fails,
    ),
    Row(
        "folders in folders",
        "while True:\n    os.mkdir('d')\n    os.chdir('d')",
        Is(Status::OutputLimit),
    ),
    Row(
        "descriptors",
        "kept = []\nattempt(lambda: [kept.append(os.pipe()) for _ in range(1000)])",
        Denied(1),
    ),
    Row(
        "higher limits",
        "import resource\nfor limit in resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE:\n    \
         try:\n        resource.setrlimit(limit, (resource.RLIM_INFINITY,) * 2)\n        print('BREACH')\n    except (OSError, ValueError):\n        print('DENIED')\n\
         call($SYS_prlimit64$, 0, 9, ctypes.create_string_buffer(b'\\xff' * 16), 0)",
        Denied(6),
    ),
    Row(
        "recursion",
        "def f():\n    f()\nf()",
        Is(Status::Raised { code: 1 }),
    ),
    Row(
        "recursion without a limit",
        "sys.setrecursionlimit(1 << 30)\ndef f(x):\n    return [f(x)]\nf(0)",
        Fails,
    ),
    Row("nested brackets", "eval('(' * 100000)", Fails),
    Row(
        "a wild pointer",
        "ctypes.string_at(0)",
        Is(Status::Killed { signal: 11 }),
    ),
    Row(
        "an illegal jump",
        "ctypes.CFUNCTYPE(None)(16)()",
        Is(Status::Killed { signal: 11 }),
    ),
    Row("giving up", "os.abort()", Fails),
    Row(
        "a dump of memory",
        "import resource\nprint(resource.getrlimit(resource.RLIMIT_CORE))",
        Says("(0, 0)"),
    ),
];

const CLOCK: &[Row] = &[
    Row(
        "an endless loop",
        "while True:\n    pass",
        Is(Status::TimedOut),
    ),
    Row(
        "an endless sum in C",
        "sum(iter(int, 1))",
        Is(Status::TimedOut),
    ),
    Row("a number without end", "print(10 ** 10 ** 10)", Fails),
    Row(
        "sleeping",
        "import time\ntime.sleep(100)",
        Is(Status::TimedOut),
    ),
    Row(
        "waiting for input that never comes",
        "reader, writer = os.pipe()\nos.read(reader, 1)",
        Is(Status::TimedOut),
    ),
    Row(
        "handlers that go on",
        "import signal, time\nfor number in signal.SIGTERM, signal.SIGXCPU, signal.SIGALRM, signal.SIGINT:\n    signal.signal(number, lambda *a: None)\n\
         signal.alarm(1)\nwhile True:\n    time.sleep(100)",
        Is(Status::TimedOut),
    ),
    Row(
        "blocking every signal",
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(100)",
        Is(Status::TimedOut),
    ),
    Row(
        "an exception that is caught again and again",
        "while True:\n    try:\n        while True: pass\n    except BaseException:\n        pass",
        Is(Status::TimedOut),
    ),
    Row(
        "memory that is caught and tried again",
        "kept = []\nwhile True:\n    try:\n        kept.append(bytearray(1 << 20))\n    except MemoryError:\n        pass",
        Is(Status::TimedOut),
    ),
];

const PROCESSOR: &[Row] = &[
    Row(
        "an endless loop",
        "while True:\n    pass",
        Is(Status::TimedOut),
    ),
    Row(
        "ignoring every signal",
        "import signal\nfor number in range(1, 65):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\n\
         while True:\n    pass",
        Is(Status::TimedOut),
    ),
];
