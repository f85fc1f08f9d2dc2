//! Starting a worker: a new process that confines itself and then becomes Python.
//!
//! `std::process::Command` cannot make namespaces together with the process, and a process has to be made in a new pid
//! namespace to be in it; so this is one raw `clone`. Between it and `execve` only system calls are made: the parent
//! may have other threads, and what they held (the allocator's lock, say) stays held in the copy.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{c_char, c_int, c_long, c_ulong};
use seccompiler::BpfProgram;

use super::capabilities::Namespaces;

/// Descriptors below this number are rearranged in the child.
const LOW: RawFd = 16;
/// Files a worker may have open. Its children are given less or more by their own limit, never more than this.
const OPEN_FILES: u64 = 1024;
/// Stack of the interpreter's one thread.
const STACK: u64 = 64 << 20;
/// First byte of what a child says that could not become Python; the step and the error number follow.
const FAILED: u8 = b'!';

const STEPS: [&str; 8] = [
    "write the user namespace's id maps",
    "arrange its descriptors",
    "enter the scratch folder",
    "set its limits",
    "give up privileges",
    "enter its Landlock domain",
    "install its seccomp filters",
    "start Python",
];

/// Everything a worker starts with, made before the process is.
pub(super) struct Launch {
    /// What it is separated from.
    pub namespaces: Namespaces,
    /// The interpreter, its arguments (the name first) and environment.
    pub executable: CString,
    /// See `executable`.
    pub arguments: Vec<CString>,
    /// See `executable`.
    pub environment: Vec<CString>,
    /// Where it starts.
    pub folder: CString,
    /// Its Landlock domain; none if it runs unconfined.
    pub ruleset: Option<OwnedFd>,
    /// Its seccomp filters; none if it runs unconfined.
    pub filters: Vec<BpfProgram>,
}

/// A started worker.
pub(super) struct Started {
    /// Its process id as seen from here.
    pub pid: libc::pid_t,
    /// Our end of its socket.
    pub control: OwnedFd,
    /// What it writes to standard output and error.
    pub log: File,
}

/// A path or text for a system call.
pub(super) fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::other("a path with a zero byte"))
}

impl Launch {
    /// Start it.
    pub(super) fn start(&self) -> io::Result<Started> {
        let (control, theirs) = socket_pair()?;
        let null = File::open("/dev/null")?;
        let log = memory_file(c"sandbox log")?;
        let pointers = |list: &[CString]| -> Vec<*const c_char> {
            let ends = [std::ptr::null()];
            list.iter().map(|s| s.as_ptr()).chain(ends).collect()
        };
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        let (uid_map, gid_map) = id_maps();
        let child = Child {
            launch: self,
            arguments: &arguments,
            environment: &environment,
            uid_map: &uid_map,
            gid_map: &gid_map,
            control: theirs.as_raw_fd(),
            null: null.as_raw_fd(),
            log: log.as_raw_fd(),
        };
        // No handler of ours may run in the copy.
        let mut every = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the sets are filled by the calls that get them, before they are read.
        unsafe {
            libc::sigfillset(every.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, every.as_ptr(), before.as_mut_ptr());
        }
        let flags = c_long::from(self.namespaces.flags() | libc::SIGCHLD);
        // SAFETY: without CLONE_VM and with a null stack this is a fork: the child goes on in its own copy, and does
        // nothing there but system calls before it is replaced or exits.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            child.become_python();
        }
        let made = if pid < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(pid as libc::pid_t)
        };
        // SAFETY: `before` was filled above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
        Ok(Started {
            pid: made?,
            control,
            log,
        })
    }
}

/// What a child said in place of Python, if that is what `packet` is.
pub(super) fn failure(packet: &[u8]) -> Option<String> {
    let &[FAILED, step, a, b, c, d] = packet else {
        return None;
    };
    let step = STEPS.get(usize::from(step))?;
    let error = io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]));
    Some(format!("it could not {step}: {error}"))
}

/// Whether these namespaces can be had: a child is made in them and exits.
pub(super) fn can_make(namespaces: Namespaces) -> bool {
    let (uid_map, gid_map) = id_maps();
    let flags = c_long::from(namespaces.flags() | libc::SIGCHLD);
    // SAFETY: as in `Launch::start`; the child writes its maps and exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        let mapped = !namespaces.user || write_maps(&uid_map, &gid_map);
        // SAFETY: ends the child at once, without any handler.
        unsafe { libc::_exit(if mapped { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    pid > 0 && unsafe { libc::waitpid(pid as libc::pid_t, &mut status, 0) } > 0 && status == 0
}

/// What the child uses; all of it was made before the process was.
struct Child<'a> {
    launch: &'a Launch,
    arguments: &'a [*const c_char],
    environment: &'a [*const c_char],
    uid_map: &'a CStr,
    gid_map: &'a CStr,
    control: RawFd,
    null: RawFd,
    log: RawFd,
}

impl Child<'_> {
    fn become_python(&self) -> ! {
        let step = match self.prepare() {
            Err(step) => step,
            // SAFETY: all three are null-terminated lists of C strings that live in this process's memory.
            Ok(()) => unsafe {
                libc::execve(
                    self.launch.executable.as_ptr(),
                    self.arguments.as_ptr(),
                    self.environment.as_ptr(),
                );
                7
            },
        };
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let [a, b, c, d] = error.to_ne_bytes();
        let packet = [FAILED, step, a, b, c, d];
        let to = if step < 2 { self.control } else { 3 };
        // SAFETY: the packet lives during the call; then the child ends without any handler.
        unsafe {
            libc::send(to, packet.as_ptr().cast(), packet.len(), 0);
            libc::_exit(1)
        }
    }

    /// Confine this process. The error is the index of the step that failed, its reason in `errno`.
    fn prepare(&self) -> Result<(), u8> {
        let launch = self.launch;
        reset_signals();
        if launch.namespaces.user && !write_maps(self.uid_map, self.gid_map) {
            return Err(0);
        }
        // The kernel's choice if memory runs out. A wish; nothing depends on it.
        write_file(c"/proc/self/oom_score_adj", b"1000");
        // SAFETY: descriptors are numbers, the paths are C strings, and the structs are ours.
        unsafe {
            libc::setsid();
            libc::umask(0o077);
            let high = |fd| libc::fcntl(fd, libc::F_DUPFD, LOW);
            let ruleset = launch
                .ruleset
                .as_ref()
                .map(|ruleset| high(ruleset.as_raw_fd()));
            let moved = [high(self.null), high(self.log), high(self.control)];
            if ruleset == Some(-1) || moved.contains(&-1) {
                return Err(1);
            }
            let [null, log, control] = moved;
            for (from, to) in [(null, 0), (log, 1), (log, 2), (control, 3)] {
                if libc::dup2(from, to) < 0 {
                    return Err(1);
                }
            }
            if libc::chdir(launch.folder.as_ptr()) < 0 {
                return Err(2);
            }
            for (limit, most) in [
                (libc::RLIMIT_CORE, 0),
                (libc::RLIMIT_MEMLOCK, 0),
                (libc::RLIMIT_MSGQUEUE, 0),
                (libc::RLIMIT_RTPRIO, 0),
                (libc::RLIMIT_NOFILE, OPEN_FILES),
                (libc::RLIMIT_STACK, STACK),
            ] {
                let mut now = std::mem::zeroed::<libc::rlimit>();
                if libc::getrlimit(limit, &mut now) < 0 {
                    return Err(3);
                }
                let most = now.rlim_max.min(most);
                let set = libc::rlimit {
                    rlim_cur: most,
                    rlim_max: most,
                };
                if libc::setrlimit(limit, &set) < 0 {
                    return Err(3);
                }
            }
            if !drop_privileges() {
                return Err(4);
            }
            if let Some(ruleset) = ruleset
                && libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) < 0
            {
                return Err(5);
            }
            close_from(4);
            for filter in &launch.filters {
                if seccompiler::apply_filter(filter).is_err() {
                    return Err(6);
                }
            }
        }
        Ok(())
    }
}

/// No capability survives, and none comes back by `execve`, be the user root.
///
/// # Safety
/// Changes this process; for the child alone.
unsafe fn drop_privileges() -> bool {
    const LAST_CAPABILITY: c_ulong = 63;
    // SECBIT_NOROOT and its lock.
    const NO_ROOT: c_ulong = 3;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [0u32; 6];
    // SAFETY: the header and the three empty sets are laid out as the call reads them. What a process without
    // capabilities may not do here it has no need of.
    unsafe {
        libc::prctl(libc::PR_SET_SECUREBITS, NO_ROOT, 0, 0, 0);
        for capability in 0..=LAST_CAPABILITY {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) == 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    }
}

fn reset_signals() {
    // SAFETY: the child's own dispositions and mask; the set is filled before it is read.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Close all descriptors from this one on.
///
/// # Safety
/// For the child alone, which owns none of them by a Rust value that will be dropped.
unsafe fn close_from(first: RawFd) {
    // SAFETY: numbers only.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) < 0 {
            for fd in first..65536 {
                libc::close(fd);
            }
        }
    }
}

/// Each id as itself, and no other.
fn id_maps() -> (CString, CString) {
    // SAFETY: these calls cannot fail and touch nothing.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let map = |id: u32| CString::new(format!("{id} {id} 1")).unwrap_or_default();
    (map(uid), map(gid))
}

fn write_maps(uid_map: &CStr, gid_map: &CStr) -> bool {
    write_file(c"/proc/self/setgroups", b"deny")
        && write_file(c"/proc/self/uid_map", uid_map.to_bytes())
        && write_file(c"/proc/self/gid_map", gid_map.to_bytes())
}

fn write_file(path: &CStr, text: &[u8]) -> bool {
    // SAFETY: a C string, and a buffer with its length.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let written = fd >= 0 && libc::write(fd, text.as_ptr().cast(), text.len()) > 0;
        if fd >= 0 {
            libc::close(fd);
        }
        written
    }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: two descriptors are written to `ends`.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just made and are owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// A file in memory without a name in any folder.
pub(super) fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: a C string; the descriptor is new.
    unsafe {
        match libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) {
            fd if fd < 0 => Err(io::Error::last_os_error()),
            fd => Ok(File::from_raw_fd(fd)),
        }
    }
}

/// A folder as the child gets it.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str())
}
