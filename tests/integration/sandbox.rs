//! The sandbox in ordinary use: what programs can do, how they end, and that many of them leave nothing behind.

use std::time::Instant;

use atp_pipeline::tool::{Execution, Queue, Sandbox, SandboxConfig, Status};

use crate::sandbox_attacks::{alone, descendants, strict};

/// The body of a test that has a sandbox and a process to itself.
macro_rules! with_sandbox {
    ($name:literal, |$sandbox:ident| $body:block) => {
        alone(concat!("sandbox::", $name), |_| {
            let $sandbox = &Sandbox::new(&strict()).unwrap();
            $body
        })
    };
}

fn run(sandbox: &Sandbox, program: &str) -> Execution {
    sandbox.run(&[program]).remove(0)
}

/// Ends with this output.
fn prints(sandbox: &Sandbox, program: &str, expected: &str) {
    let execution = run(sandbox, program);
    assert_eq!(
        execution.status,
        Status::Finished,
        "{program}: {execution:?}"
    );
    assert_eq!(execution.stdout, expected, "{program}");
}

fn has(sandbox: &Sandbox, package: &str) -> bool {
    let packages = sandbox.capabilities().packages;
    let found = packages.iter().any(|(name, _)| name == package);
    if !found {
        eprintln!("{package} is not here: run `python3 scripts/setup.py python`");
    }
    found
}

#[test]
fn arithmetic_and_print() {
    with_sandbox!("arithmetic_and_print", |s| {
        prints(s, "print(2 ** 100 % 7)", "2\n");
        prints(
            s,
            "import math\nprint(math.comb(10, 3), math.gcd(12, 18))",
            "120 6\n",
        );
        prints(
            s,
            "from fractions import Fraction\nprint(Fraction(1, 3) + Fraction(1, 6))",
            "1/2\n",
        );
        prints(
            s,
            "from itertools import permutations\nprint(len(list(permutations(range(5)))))",
            "120\n",
        );
        prints(s, "print('a', end='')\nprint('b')", "ab\n");
        prints(s, "", "");
        prints(s, "print('größe', '数', '🎲')", "größe 数 🎲\n");
        prints(s, "x = '\\ud800'\nprint(x)", "\\ud800\n");
        prints(
            s,
            "if __name__ == '__main__':\n    print(__name__)",
            "__main__\n",
        );
        prints(s, "import sys\nsys.stdout.write('raw')\nsys.exit(0)", "raw");
        prints(
            s,
            "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\nprint(P(3))",
            "P(x=3)\n",
        );
        prints(
            s,
            "import atexit\natexit.register(print, 'last')\nprint('first')",
            "first\nlast\n",
        );
        prints(
            s,
            "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'abc')\n    print(f.tell())",
            "3\n",
        );
        prints(
            s,
            "open('a', 'w').write('x')\nimport os\nprint(os.listdir())",
            "['a']\n",
        );
    });
}

#[test]
fn the_last_value_is_printed_if_nothing_else_was() {
    with_sandbox!("the_last_value_is_printed_if_nothing_else_was", |s| {
        prints(s, "6 * 7", "42\n");
        prints(s, "x = 5\nx + 1", "6\n");
        prints(s, "'text'", "'text'\n");
        prints(s, "None", "");
        prints(s, "x = 5", "");
        prints(s, "print('said')\n6 * 7", "said\n");
        prints(s, "print(6 * 7)", "42\n");
        prints(s, "[1].append(2)", "");
        prints(s, "def f():\n    return 3\nf()", "3\n");
        prints(s, "for i in range(3):\n    i", "");
        prints(s, "from __future__ import annotations\n1 + 1", "2\n");
    });
}

#[test]
fn faults_of_a_program_have_a_traceback() {
    with_sandbox!("faults_of_a_program_have_a_traceback", |s| {
        let execution = run(s, "print('before')\ndef f():\n    return 1 / 0\nf()");
        assert_eq!(execution.status, Status::Raised { code: 1 });
        assert_eq!(execution.stdout, "before\n");
        let lines: Vec<_> = execution.stderr.lines().collect();
        assert_eq!(lines[0], "Traceback (most recent call last):");
        assert_eq!(
            lines[1], "  File \"program.py\", line 4, in <module>",
            "{lines:?}"
        );
        assert!(execution.stderr.contains("return 1 / 0"), "{lines:?}");
        assert_eq!(lines.last(), Some(&"ZeroDivisionError: division by zero"));

        let execution = run(s, "print('never'\n");
        assert_eq!(execution.status, Status::Raised { code: 1 });
        assert!(execution.stderr.contains("SyntaxError"), "{execution:?}");
        assert!(!execution.stderr.contains("Traceback"), "{execution:?}");
        assert_eq!(execution.stdout, "");

        assert_eq!(
            run(s, "import sys\nsys.exit(7)").status,
            Status::Raised { code: 7 }
        );
        let execution = run(s, "import sys\nsys.exit('why')");
        assert_eq!(
            (execution.status, execution.stderr.as_str()),
            (Status::Raised { code: 1 }, "why\n")
        );
        let execution = run(s, "raise KeyboardInterrupt");
        assert_eq!(execution.status, Status::Raised { code: 1 });
        assert_eq!(run(s, "bytearray(1 << 40)").status, Status::OutOfMemory);
    });
}

#[test]
fn symbols_and_arrays() {
    with_sandbox!("symbols_and_arrays", |s| {
        if has(s, "sympy") {
            prints(
                s,
                "from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 5*x + 6, x))",
                "[2, 3]\n",
            );
            prints(
                s,
                "from sympy import *\nx = symbols('x')\nfactor(x**2 - 1)",
                "(x - 1)*(x + 1)\n",
            );
            prints(
                s,
                "from sympy.ntheory.modular import crt\nprint(crt([3, 5, 7], [2, 3, 2])[0])",
                "23\n",
            );
            prints(
                s,
                "import sympy\nprint(sympy.N(sympy.pi, 30))",
                "3.14159265358979323846264338328\n",
            );
        }
        if has(s, "numpy") {
            prints(
                s,
                "import numpy as np\nprint(round(np.linalg.det(np.array([[2., 1.], [1., 3.]]))))",
                "5\n",
            );
            prints(
                s,
                "import numpy as np\na = np.arange(1000)\nprint(a @ a)",
                "332833500\n",
            );
            prints(s, "import numpy as np\nnp.int64(3) + 4", "np.int64(7)\n");
        }
    });
}

#[test]
fn the_same_program_gives_the_same_again() {
    with_sandbox!("the_same_program_gives_the_same_again", |s| {
        let other = Sandbox::new(&strict()).unwrap();
        for program in [
            "import random\nprint(random.random(), random.sample(range(100), 5))",
            "print(hash('text'), list({'a', 'b', 'c', 'd'}))",
            "try:\n    import numpy\n    print(numpy.random.rand(3))\nexcept ImportError:\n    print('none')",
        ] {
            let first = run(s, program);
            assert_eq!(first.status, Status::Finished, "{first:?}");
            assert_eq!(first.stdout, run(s, program).stdout);
            assert_eq!(
                first.stdout,
                other.run(&[program])[0].stdout,
                "another worker"
            );
        }
        let (a, b) = (
            run(s, "import random\nprint(random.random())"),
            run(s, "import random\nprint(random.random()) # b"),
        );
        assert_ne!(a.stdout, b.stdout, "another program has other numbers");
    });
}

#[test]
fn many_programs_keep_their_order() {
    alone("sandbox::many_programs_keep_their_order", |_| {
        let config = SandboxConfig {
            workers: 2,
            ..strict()
        };
        let sandbox = Sandbox::new(&config).unwrap();
        let programs: Vec<_> = (0..40)
            .map(|i| {
                format!(
                    "import time\ntime.sleep({})\nprint({i})",
                    f64::from(i % 3) / 100.0
                )
            })
            .collect();
        let results = sandbox.run(&programs);
        for (i, result) in results.iter().enumerate() {
            assert_eq!(result.stdout, format!("{i}\n"), "{result:?}");
        }
        assert_eq!(descendants().len(), 2, "two workers did it");
        assert_eq!(sandbox.run::<&str>(&[]), []);
    });
}

#[test]
fn what_is_not_allowed_is_refused_before_anything_runs() {
    let config = SandboxConfig {
        wall_seconds: -1.0,
        ..strict()
    };
    let error = Sandbox::new(&config).err().unwrap().to_string();
    assert!(error.contains("wall_seconds"), "{error}");
    let config = SandboxConfig {
        packages: Some("/nonexistent".into()),
        ..strict()
    };
    let error = Sandbox::new(&config).err().unwrap().to_string();
    assert!(
        error.contains("/nonexistent") && error.contains("setup.py python"),
        "{error}"
    );
}

/// Descriptors, processes, memory and folders after a thousand calls are what they were after the first hundred, in
/// this process and in the worker; and a call costs at most 20 ms beyond Python's work (its median; the allowance of
/// this test is wider, as other tests run meanwhile).
#[test]
fn a_thousand_calls_leave_nothing_behind() {
    alone("sandbox::a_thousand_calls_leave_nothing_behind", |_| {
        let start = Instant::now();
        let sandbox = Sandbox::new(&strict()).unwrap();
        eprintln!("cold start: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        let worker = descendants();
        let state = || {
            // The worker's are only root's to see.
            let fds = |pid: u32| {
                let folder = std::fs::read_dir(format!("/proc/{pid}/fd"));
                folder.map_or(0, |entries| entries.count())
            };
            let kib = |pid: u32| -> usize {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
                line.split_whitespace().nth(1).unwrap().parse().unwrap()
            };
            let own = std::process::id();
            let temporary = std::env::temp_dir();
            let scratch = std::fs::read_dir(&temporary)
                .unwrap()
                .flatten()
                .next()
                .unwrap();
            let left = std::fs::read_dir(scratch.path()).unwrap().count();
            ([fds(own), fds(worker[0]), left], [kib(own), kib(worker[0])])
        };
        let (mut seconds, mut before) = (Vec::new(), None);
        for i in 0..1000 {
            let kind = match i % 10 {
                0 => "open('file', 'w').write('x' * 1000)",
                1 => "1 / 0",
                2 => "import os\nos.dup(1)\nos.mkdir('d', 0)",
                3 => "import socket\nsocket.socket()",
                _ => "print(6 * 7)",
            };
            let execution = sandbox.run(&[kind]).remove(0);
            assert!(
                !matches!(execution.status, Status::Lost | Status::Broken),
                "{execution:?}"
            );
            if kind == "print(6 * 7)" {
                assert_eq!(execution.stdout, "42\n", "{execution:?}");
                seconds.push(execution.seconds);
            }
            if i == 100 {
                before = Some(state());
            }
        }
        let (counts, memory) = state();
        let (counts_before, memory_before) = before.unwrap();
        assert_eq!(
            counts, counts_before,
            "descriptors here, in the worker, folders"
        );
        assert_eq!(descendants(), worker, "processes");
        for (now, then) in memory.iter().zip(memory_before) {
            assert!(
                *now < then + 2048,
                "{now} KiB, {then} KiB after the first hundred"
            );
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2] * 1e3;
        eprintln!("median of {} calls: {median:.1} ms", seconds.len());
        assert!(median < 60.0, "{median} ms");
    });
}

/// Programs of a queue run while its caller goes on; the quick one is there before the slow one, each under its number, and
/// those that were not begun when the queue went are never run.
#[test]
fn programs_in_a_queue_run_beside_their_caller() {
    alone(
        "sandbox::programs_in_a_queue_run_beside_their_caller",
        |_| {
            let sandbox = Sandbox::new(&SandboxConfig {
                workers: 2,
                ..strict()
            })
            .unwrap();
            assert_eq!(sandbox.workers(), 2);
            let slow = |seconds: f64| format!("import time\ntime.sleep({seconds})\nprint('slow')");
            // Both workers are there.
            sandbox.run(&[slow(0.3), slow(0.3)]);
            std::thread::scope(|scope| {
                let mut queue = Queue::new(scope, &sandbox, 8);
                assert!(queue.done(true).is_empty(), "nothing to wait for");
                queue.put(3, slow(2.0));
                queue.put(5, "print(6 * 7)".into());
                assert!(queue.done(false).is_empty(), "it waited");
                let mut done = queue.done(true);
                assert_eq!(done.len(), 1, "{done:?}");
                done.extend(queue.done(true));
                let told: Vec<_> = done
                    .iter()
                    .map(|(id, e)| (*id, e.stdout.as_str()))
                    .collect();
                assert_eq!(told, [(5, "42\n"), (3, "slow\n")]);
            });
            let started = Instant::now();
            std::thread::scope(|scope| {
                let mut queue = Queue::new(scope, &sandbox, 8);
                (0..40).for_each(|id| queue.put(id, slow(0.5)));
            });
            let seconds = started.elapsed().as_secs_f64();
            assert!(seconds < 5.0, "{seconds} s for programs that nobody wants");
        },
    );
}
