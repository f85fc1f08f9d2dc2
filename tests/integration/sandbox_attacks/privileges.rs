//! At the kernel: privileges, other entries, what only an administrator does.

use super::End::{Denied, Is};
use super::{Row, Status, alone, attacks};

#[test]
fn privileges() {
    alone("sandbox_attacks::privileges::privileges", |folder| {
        attacks(folder, ROWS)
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_entries_into_the_kernel() {
    alone(
        "sandbox_attacks::privileges::other_entries_into_the_kernel",
        |folder| {
            attacks(
                folder,
                &[
                    Row(
                        "numbers of the x32 interface",
                        "call(0x40000000 + 39)\ncall(0x40000000 + 41, 2, 1, 0)\ncall(0x40000000 + 520, b'/bin/sh', 0, 0)",
                        Denied(3),
                    ),
                    Row(
                        "the 32-bit entry",
                        // mov eax, 20; int 0x80; ret: getpid as a 32-bit program calls it.
                        "import mmap\ncode = mmap.mmap(-1, 4096, prot=7)\ncode.write(bytes.fromhex('b814000000cd80c3'))\n\
                     address = ctypes.addressof(ctypes.c_char.from_buffer(code))\nprint('BREACH', ctypes.CFUNCTYPE(ctypes.c_int)(address)())",
                        Is(Status::Refused),
                    ),
                    Row(
                        "a number that is none",
                        "call(100000)\ncall(600)\ncall(-1)",
                        Denied(3),
                    ),
                ],
            )
        },
    );
}

const ROWS: &[Row] = &[
    Row("another user", "call($SYS_setuid$, 0)", Is(Status::Refused)),
    Row(
        "another user by Python",
        "attempt(os.setuid, 0)",
        Is(Status::Refused),
    ),
    Row(
        "another group",
        "call($SYS_setgid$, 0)",
        Is(Status::Refused),
    ),
    Row(
        "more groups",
        "call($SYS_setgroups$, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "capabilities",
        "call($SYS_capset$, ctypes.create_string_buffer(8), ctypes.create_string_buffer(24))",
        Is(Status::Refused),
    ),
    Row(
        "mounting",
        "call($SYS_mount$, b'none', b'/tmp', b'tmpfs', 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "unmounting",
        "call($SYS_umount2$, b'/proc', 2)",
        Is(Status::Refused),
    ),
    Row(
        "mounting in the new way",
        "call($SYS_fsopen$, b'tmpfs', 0)",
        Is(Status::Refused),
    ),
    Row(
        "new namespaces",
        "call($SYS_unshare$, 0x10000000)",
        Is(Status::Refused),
    ),
    Row(
        "old namespaces",
        "call($SYS_setns$, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "another root",
        "call($SYS_chroot$, b'/')",
        Is(Status::Refused),
    ),
    Row(
        "another root for all",
        "call($SYS_pivot_root$, b'/', b'/')",
        Is(Status::Refused),
    ),
    Row(
        "a ring of keys",
        "call($SYS_keyctl$, 0, -3, 1)",
        Is(Status::Refused),
    ),
    Row(
        "a key",
        "call($SYS_add_key$, b'user', b'a', b'b', 1, -3)",
        Is(Status::Refused),
    ),
    Row(
        "a key of others",
        "call($SYS_request_key$, b'user', b'a', 0, -3)",
        Is(Status::Refused),
    ),
    Row(
        "a kernel program",
        "call($SYS_bpf$, 0, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "counters",
        "call($SYS_perf_event_open$, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
        Is(Status::Refused),
    ),
    Row(
        "page faults",
        "call($SYS_userfaultfd$, 0)",
        Is(Status::Refused),
    ),
    Row(
        "another kernel",
        "call($SYS_kexec_load$, 0, 0, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "a module",
        "call($SYS_init_module$, 0, 0, b'')",
        Is(Status::Refused),
    ),
    Row(
        "a module file",
        "call($SYS_finit_module$, 0, b'', 0)",
        Is(Status::Refused),
    ),
    Row(
        "a restart",
        "call($SYS_reboot$, 0xfee1dead, 672274793, 0, 0)",
        Is(Status::Refused),
    ),
    Row(
        "the clock",
        "call($SYS_clock_settime$, 0, ctypes.create_string_buffer(16))",
        Is(Status::Refused),
    ),
    Row(
        "the time of day",
        "call($SYS_settimeofday$, ctypes.create_string_buffer(16), 0)",
        Is(Status::Refused),
    ),
    Row(
        "the name of the machine",
        "call($SYS_sethostname$, b'breach', 6)",
        Is(Status::Refused),
    ),
    Row(
        "swap",
        "call($SYS_swapoff$, b'/dev/vda')",
        Is(Status::Refused),
    ),
    Row(
        "the kernel's log",
        "call($SYS_syslog$, 3, ctypes.create_string_buffer(64), 64)",
        Is(Status::Refused),
    ),
    Row(
        "another personality",
        "call($SYS_personality$, 0x0040000)",
        Is(Status::Refused),
    ),
    Row(
        "a weaker filter",
        "call($SYS_seccomp$, 0, 0, 0)\ncall($SYS_prctl$, 22, 0, 0, 0, 0)\ncall($SYS_prctl$, 38, 0, 0, 0, 0)",
        Denied(3),
    ),
    Row(
        "a terminal's input",
        "import fcntl\nattempt(fcntl.ioctl, 0, 0x5412, b'x')",
        Denied(1),
    ),
];
