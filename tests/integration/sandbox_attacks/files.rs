//! At files: reading what is private, changing anything, hiding something for later.

use super::End::{Denied, Is, Says};
use super::{Row, SandboxConfig, Status, alone, attacks, attacks_under, strict};

#[test]
fn files() {
    alone("sandbox_attacks::files::files", |folder| {
        attacks(folder, ROWS)
    });
}

/// What programs import may not be changed, whoever owns it. The folder is one of the test's own: a sandbox that fails
/// here would do no harm.
#[test]
fn packages_stay_as_they_are() {
    alone(
        "sandbox_attacks::files::packages_stay_as_they_are",
        |folder| {
            let packages = folder.join("packages");
            std::fs::create_dir_all(packages.join("__pycache__")).unwrap();
            std::fs::write(packages.join("pinned.py"), "value = 5").unwrap();
            let limits = SandboxConfig {
                packages: Some(packages),
                ..strict()
            };
            attacks_under(&limits, folder, PACKAGES);
        },
    );
}

const PACKAGES: &[Row] = &[
    Row(
        "emptying through a reader",
        "attempt(os.open, '$PACKAGES/pinned.py', os.O_RDONLY | os.O_TRUNC)",
        Denied(1),
    ),
    Row(
        "emptying without access",
        "attempt(os.open, '$PACKAGES/pinned.py', 3 | os.O_TRUNC)",
        Denied(1),
    ),
    Row(
        "emptying by name",
        "attempt(os.truncate, '$PACKAGES/pinned.py', 0)",
        Denied(1),
    ),
    Row(
        "writing",
        "attempt(open, '$PACKAGES/pinned.py', 'r+')",
        Denied(1),
    ),
    Row(
        "removing",
        "attempt(os.remove, '$PACKAGES/pinned.py')",
        Denied(1),
    ),
    Row(
        "moving",
        "attempt(os.rename, '$PACKAGES/pinned.py', 'pinned.py')",
        Denied(1),
    ),
    Row(
        "its modes",
        "attempt(os.chmod, '$PACKAGES/pinned.py', 0o777)",
        Denied(1),
    ),
    Row(
        "its times",
        "attempt(os.utime, '$PACKAGES/pinned.py', (0, 0))",
        Denied(1),
    ),
    Row(
        "compiled files",
        "sys.dont_write_bytecode = False\nimport pinned\nprint(pinned.value)\n\
         attempt(open, '$PACKAGES/__pycache__/pinned.cpython-311.pyc', 'wb')\nattempt(open, '$PACKAGES/new.py', 'w')",
        Denied(2),
    ),
    Row(
        "compiled files by the compiler",
        "import py_compile\nattempt(lambda: py_compile.compile('$PACKAGES/pinned.py', doraise=True))",
        Denied(1),
    ),
    Row(
        "it can be imported",
        "import pinned\nprint(pinned.value + 37)",
        Says("42"),
    ),
];

const ROWS: &[Row] = &[
    Row(
        "the list of users",
        "attempt(lambda: open('/etc/passwd').read())",
        Denied(1),
    ),
    Row(
        "passwords",
        "attempt(lambda: open('/etc/shadow').read())",
        Denied(1),
    ),
    Row(
        "a private file",
        "attempt(lambda: open('$OUTSIDE/secret.txt').read())",
        Denied(1),
    ),
    Row(
        "a list of files",
        "attempt(os.listdir, '$OUTSIDE')\nattempt(os.listdir, '/')\nattempt(os.listdir, '/tmp')",
        Denied(3),
    ),
    Row(
        "the home folder",
        "attempt(os.listdir, '$HOME')\nattempt(lambda: open('$HOME/.bashrc').read())",
        Denied(2),
    ),
    Row(
        "the first process",
        "attempt(lambda: open('/proc/1/environ', 'rb').read())",
        Denied(1),
    ),
    Row(
        "our process",
        "for name in 'environ', 'cmdline', 'maps', 'mem', 'status':\n    attempt(lambda: open('/proc/$PARENT/' + name, 'rb').read(16))",
        Denied(5),
    ),
    Row(
        "the worker",
        "for name in 'environ', 'mem', 'maps':\n    attempt(lambda: open(f'/proc/{os.getppid()}/{name}', 'rb').read(16))",
        Denied(3),
    ),
    Row(
        "itself through /proc",
        "for name in 'mem', 'maps', 'environ', 'root/etc/passwd':\n    attempt(lambda: open('/proc/self/' + name, 'rb').read(16))\n\
         attempt(os.listdir, '/proc/self/fd')",
        Denied(5),
    ),
    Row("all processes", "attempt(os.listdir, '/proc')", Denied(1)),
    Row(
        "the kernel's settings",
        "attempt(lambda: open('/sys/kernel/mm/transparent_hugepage/enabled').read())\nattempt(os.listdir, '/sys')",
        Denied(2),
    ),
    Row(
        "a kernel setting changed",
        "attempt(open, '/proc/sys/kernel/core_pattern', 'w')",
        Denied(1),
    ),
    Row(
        "memory and disks",
        "for name in 'mem', 'kmsg', 'vda', 'tty', 'ptmx', 'fuse':\n    attempt(open, '/dev/' + name, 'rb')",
        Denied(6),
    ),
    Row(
        "shared memory files",
        "attempt(open, '/dev/shm/breach', 'w')",
        Denied(1),
    ),
    Row(
        "control groups",
        "attempt(open, '/sys/fs/cgroup/cgroup.procs', 'w')",
        Denied(1),
    ),
    Row(
        "writing outside",
        "attempt(open, '$OUTSIDE/new.txt', 'w')\nattempt(open, '$OUTSIDE/kept.txt', 'w')\nattempt(open, '/tmp/breach', 'w')",
        Denied(3),
    ),
    Row(
        "appending outside",
        "attempt(open, '$OUTSIDE/kept.txt', 'a')",
        Denied(1),
    ),
    Row(
        "removing outside",
        "attempt(os.remove, '$OUTSIDE/kept.txt')\nattempt(os.mkdir, '$OUTSIDE/new')",
        Denied(2),
    ),
    Row(
        "the next folder",
        "attempt(os.listdir, '..')\nattempt(open, '../breach', 'w')\nattempt(os.mkdir, '../breach')",
        Denied(3),
    ),
    Row(
        "a symbolic link out",
        "os.symlink('$OUTSIDE/secret.txt', 'link')\nattempt(lambda: open('link').read())\n\
         os.symlink('$OUTSIDE/kept.txt', 'other')\nattempt(open, 'other', 'w')\n\
         os.symlink('$OUTSIDE', 'folder')\nattempt(os.listdir, 'folder')",
        Denied(3),
    ),
    Row(
        "a hard link out",
        "attempt(os.link, '$OUTSIDE/secret.txt', 'hard')",
        Denied(1),
    ),
    Row(
        "moving in and out",
        "attempt(os.rename, '$OUTSIDE/secret.txt', 'mine')\nopen('x', 'w').close()\nattempt(os.rename, 'x', '$OUTSIDE/x')\nattempt(os.link, 'x', '$OUTSIDE/x')",
        Denied(3),
    ),
    Row(
        "modes, owners and times outside",
        "attempt(os.chmod, '$OUTSIDE/kept.txt', 0o777)\nattempt(os.chown, '$OUTSIDE/kept.txt', 1, 1)\n\
         attempt(os.utime, '$OUTSIDE/kept.txt', (0, 0))\nattempt(os.truncate, '$OUTSIDE/kept.txt', 0)\n\
         attempt(os.setxattr, '$OUTSIDE/kept.txt', 'user.a', b'b')",
        Denied(5),
    ),
    Row(
        "a device of its own",
        "attempt(os.mknod, 'device', 0o60600, 0xfe00)\nattempt(os.mkfifo, 'pipe')\ncall($SYS_mknodat$, -100, b'd', 0o20600, 0x101)",
        Denied(3),
    ),
    Row(
        "a file by its handle",
        "call($SYS_open_by_handle_at$, 0, ctypes.create_string_buffer(64), 0)",
        Is(Status::Refused),
    ),
    Row(
        "the handle of a file",
        "call($SYS_name_to_handle_at$, -100, b'/', ctypes.create_string_buffer(64), ctypes.create_string_buffer(8), 0)",
        Is(Status::Refused),
    ),
    Row("watching files", "call($SYS_inotify_init1$, 0)", Denied(1)),
    Row(
        "watching all files",
        "call($SYS_fanotify_init$, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "a module of the run directory",
        "import runmodule",
        Says("ModuleNotFoundError"),
    ),
    Row(
        "a module of the run directory by its path",
        "sys.path.insert(0, '$OUTSIDE')\nimport runmodule",
        Says("ModuleNotFoundError"),
    ),
    Row(
        "a module left for the next program",
        "open('leftmodule.py', 'w').write('x = 1')\nimport leftmodule",
        Says("ModuleNotFoundError"),
    ),
    Row(
        "a program with a bit set",
        "open('tool', 'w').close()\nattempt(os.chmod, 'tool', 0o4755)",
        Denied(1),
    ),
    Row(
        "folders without rights",
        "os.mkdir('a', 0)\nos.mkdir('b')\nopen('b/x', 'w').close()\nos.umask(0o777)\nopen('y', 'w').close()\nos.mkdir('b/c')\nprint('made')",
        Says("made"),
    ),
    Row(
        "a folder that cannot be listed",
        "import time\nos.mkdir('hidden', 0o300)\nopen('hidden/x', 'w').close()\ntime.sleep(0.2)\nprint('made')",
        Says(""),
    ),
];
