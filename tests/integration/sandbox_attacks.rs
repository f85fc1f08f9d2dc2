//! Programs that want out of the sandbox. A row is one attack; every group runs twice, with namespaces and without.
//!
//! A group has a process to itself, with secrets in its environment and arguments, a folder of temporary files of its
//! own, listeners that an attack might reach and files it might read or change. After each attack the same is true:
//! no output has a secret or the word BREACH, nobody called a listener, the files are as they were, the worker is the
//! only process there is, no scratch folder is left, and the next program gets its right answer. Beyond that a row says
//! how its program must end, or what it must have seen, so that an attack that was never tried does not pass.

mod files;
mod network;
mod privileges;
mod processes;
mod protocol;
mod resources;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use atp_pipeline::tool::{Execution, Sandbox, SandboxConfig, Status};

/// Set for the process that a group has to itself.
const ALONE: &str = "ATP_SANDBOX_TEST_SECRET";
const SECRETS: [&str; 4] = [
    "secret-of-the-environment",
    "secret-of-the-arguments",
    "secret-of-a-file",
    "root:x:",
];

/// What comes before every program: `attempt` calls and reports, `call` makes a system call by its number.
const PRELUDE: &str = r#"
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(action, *arguments):
    try:
        result = action(*arguments)
    except (OSError, RuntimeError) as error:
        print("DENIED", type(error).__name__, error)
    else:
        print("BREACH", result)
def call(number, *arguments):
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *converted)
    name = errno.errorcode.get(ctypes.get_errno())
    print("BREACH" if result >= 0 else "DENIED " + str(name))
"#;

/// How an attack must end.
#[derive(Clone, Copy)]
pub enum End {
    /// The program went on and printed DENIED this often.
    Denied(usize),
    /// This status.
    Is(Status),
    /// This text in its output, whatever the status.
    Says(&'static str),
    /// Anything that is not a success: a crash, a limit, an exception.
    Fails,
}

/// One attack.
pub struct Row(pub &'static str, pub &'static str, pub End);

/// What an attack may want.
struct Outside {
    folder: PathBuf,
    temporary: PathBuf,
    tcp4: TcpListener,
    tcp6: Option<TcpListener>,
    udp: UdpSocket,
    unix: UnixListener,
    named: UnixListener,
    packages: PathBuf,
    before: [Tree; 3],
}

impl Outside {
    fn new(folder: &Path) -> Self {
        let outside = folder.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret.txt"), "secret-of-a-file").unwrap();
        fs::write(outside.join("kept.txt"), "kept").unwrap();
        fs::write(outside.join("runmodule.py"), "print('BREACH')").unwrap();
        std::env::set_current_dir(&outside).unwrap();
        let tcp4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0").ok();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(folder.join("socket")).unwrap();
        let name = format!("atp-sandbox-{}", std::process::id());
        let named =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        tcp4.set_nonblocking(true).unwrap();
        tcp6.iter().for_each(|l| l.set_nonblocking(true).unwrap());
        udp.set_nonblocking(true).unwrap();
        unix.set_nonblocking(true).unwrap();
        named.set_nonblocking(true).unwrap();
        let packages = folder.join("packages");
        let before = [
            tree(&outside),
            tree(&packages),
            tree(&packages.join("__pycache__")),
        ];
        Self {
            folder: outside,
            temporary: folder.join("temporary"),
            tcp4,
            tcp6,
            udp,
            unix,
            named,
            packages,
            before,
        }
    }

    /// The program with the places of this process in it.
    fn fill(&self, program: &str) -> String {
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let mut text = format!("{PRELUDE}{program}");
        let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
        for (name, value) in [
            ("$OUTSIDE", self.folder.display().to_string()),
            ("$PACKAGES", self.packages.display().to_string()),
            ("$HOME", home),
            ("$PARENT", std::process::id().to_string()),
            ("$TCP4", port(&self.tcp4).to_string()),
            ("$TCP6", self.tcp6.as_ref().map_or(1, port).to_string()),
            ("$UDP", self.udp.local_addr().unwrap().port().to_string()),
            (
                "$UNIX",
                self.folder.with_file_name("socket").display().to_string(),
            ),
            ("$NAMED", format!("atp-sandbox-{}", std::process::id())),
        ] {
            text = text.replace(name, &value);
        }
        for (name, number) in NUMBERS {
            text = text.replace(&format!("$SYS_{name}$"), &number.to_string());
        }
        assert!(!text.contains('$'), "a place was left open in {text}");
        text
    }

    /// Whether nobody called and nothing changed.
    fn untouched(&self) -> Result<(), String> {
        let quiet = |name: &str, result: Option<ErrorKind>| match result {
            Some(ErrorKind::WouldBlock) => Ok(()),
            other => Err(format!("{name} was reached: {other:?}")),
        };
        quiet("TCP", self.tcp4.accept().err().map(|e| e.kind()))?;
        if let Some(tcp6) = &self.tcp6 {
            quiet("TCP over IPv6", tcp6.accept().err().map(|e| e.kind()))?;
        }
        let datagram = self.udp.recv_from(&mut [0; 16]);
        quiet("UDP", datagram.err().map(|e| e.kind()))?;
        quiet("a socket file", self.unix.accept().err().map(|e| e.kind()))?;
        quiet(
            "an abstract socket",
            self.named.accept().err().map(|e| e.kind()),
        )?;
        let compiled = self.packages.join("__pycache__");
        let now = [tree(&self.folder), tree(&self.packages), tree(&compiled)];
        if now != self.before {
            return Err(format!("files outside changed: {now:?}"));
        }
        let roots: Vec<_> = fs::read_dir(&self.temporary).unwrap().flatten().collect();
        let [root] = roots.as_slice() else {
            return Err(format!("{} folders among the temporary files", roots.len()));
        };
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().flatten().collect();
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("scratch was left: {left:?}")),
        }
    }
}

/// Content, mode and time of every file of a folder; nothing if it is not there.
type Tree = BTreeMap<PathBuf, (Vec<u8>, u32, i64)>;

fn tree(folder: &Path) -> Tree {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let facts = entries.map(|entry| {
        let metadata = entry.metadata().unwrap();
        let content = fs::read(entry.path()).unwrap_or_default();
        (entry.path(), (content, metadata.mode(), metadata.mtime()))
    });
    facts.collect()
}

/// Processes below this one. Orphans come to it, as it is a subreaper.
pub fn descendants() -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // After the name in brackets: state, parent. The dead wait for nobody but us.
        let Some((_, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        if rest.starts_with(" Z") {
            continue;
        }
        let parent: u32 = rest.split(' ').nth(2).unwrap().parse().unwrap();
        parents.insert(pid, parent);
    }
    let own = std::process::id();
    let is_below = |&pid: &u32| {
        let mut at = pid;
        while let Some(&parent) = parents.get(&at) {
            if parent == own {
                return true;
            }
            at = parent;
        }
        false
    };
    parents.keys().copied().filter(is_below).collect()
}

/// Run `body` in a process of its own, which has the secrets: the calling test's, started again.
pub fn alone(test: &str, body: fn(&Path)) {
    if let Some(folder) = std::env::var_os(ALONE).and(std::env::var_os("ATP_SANDBOX_TEST_FOLDER")) {
        // SAFETY: a flag of this process.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        return body(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .args(["--skip", SECRETS[1]])
        .env(ALONE, SECRETS[0])
        .env("ATP_SANDBOX_TEST_FOLDER", folder.path())
        .env("TMPDIR", &temporary)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(
        text.contains("1 passed"),
        "the test `{test}` was not found: {text}"
    );
    eprint!("{errors}");
    let left = fs::read_dir(&temporary).unwrap().count();
    assert_eq!(left, 0, "the dropped sandboxes left folders behind");
}

/// Limits that an attack reaches soon.
pub fn strict() -> SandboxConfig {
    SandboxConfig {
        wall_seconds: 4.0,
        cpu_seconds: 2.0,
        memory_mib: 256,
        file_mib: 4,
        scratch_mib: 8,
        output_kib: 16,
        workers: 1,
        ..SandboxConfig::default()
    }
}

/// Try all rows, with namespaces and without; all failures are told together.
pub fn attacks(folder: &Path, rows: &[Row]) {
    attacks_under(&strict(), folder, rows);
}

/// The same under other limits.
pub fn attacks_under(limits: &SandboxConfig, folder: &Path, rows: &[Row]) {
    let outside = Outside::new(folder);
    let mut failures = Vec::new();
    for namespaces in [true, false] {
        let config = SandboxConfig {
            namespaces,
            ..limits.clone()
        };
        let sandbox = Sandbox::new(&config).unwrap();
        let worker = descendants();
        assert_eq!(worker.len(), 1, "one worker, and nothing else");
        for Row(name, program, end) in rows {
            let execution = sandbox.run(&[outside.fill(program)]).remove(0);
            let verdict = judge(&execution, *end)
                .and_then(|()| outside.untouched())
                .and_then(|()| still_works(&sandbox, &worker));
            if let Err(problem) = verdict {
                let shown: String = format!("{execution:?}").chars().take(400).collect();
                failures.push(format!(
                    "{name} (namespaces: {namespaces}): {problem}\n    {shown}"
                ));
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn judge(execution: &Execution, end: End) -> Result<(), String> {
    let said = format!("{}{}", execution.stdout, execution.stderr);
    for secret in SECRETS.iter().chain(&["BREACH"]) {
        // The source line in a traceback is no breach, what was printed is.
        let found = match *secret {
            "BREACH" => execution.stdout.contains(secret),
            _ => said.contains(secret),
        };
        if found {
            return Err(format!("`{secret}` came out"));
        }
    }
    let status = execution.status;
    let denied = execution.stdout.matches("DENIED").count();
    let fits = match end {
        End::Denied(times) => status == Status::Finished && denied == times,
        End::Is(expected) => status == expected,
        End::Says(text) => said.contains(text) && !matches!(status, Status::Lost | Status::Broken),
        End::Fails => !matches!(status, Status::Finished | Status::Lost | Status::Broken),
    };
    match fits {
        true => Ok(()),
        false => Err("it ended otherwise than it should".into()),
    }
}

fn still_works(sandbox: &Sandbox, worker: &[u32]) -> Result<(), String> {
    let limit = Instant::now() + Duration::from_secs(2);
    while descendants() != worker {
        if Instant::now() > limit {
            return Err(format!("processes are {:?}, not {worker:?}", descendants()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let next = sandbox.run(&["print(6 * 7)"]).remove(0);
    match next.status == Status::Finished && next.stdout == "42\n" {
        true => Ok(()),
        false => Err(format!("the next program: {next:?}")),
    }
}

/// System calls that rows make by number.
const NUMBERS: &[(&str, libc::c_long)] = &[
    ("socket", libc::SYS_socket),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("tgkill", libc::SYS_tgkill),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("keyctl", libc::SYS_keyctl),
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("capset", libc::SYS_capset),
    ("setuid", libc::SYS_setuid),
    ("setgid", libc::SYS_setgid),
    ("setgroups", libc::SYS_setgroups),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("chroot", libc::SYS_chroot),
    ("pivot_root", libc::SYS_pivot_root),
    ("fsopen", libc::SYS_fsopen),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("kexec_load", libc::SYS_kexec_load),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("reboot", libc::SYS_reboot),
    ("clock_settime", libc::SYS_clock_settime),
    ("settimeofday", libc::SYS_settimeofday),
    ("sethostname", libc::SYS_sethostname),
    ("personality", libc::SYS_personality),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("inotify_init1", libc::SYS_inotify_init1),
    ("memfd_create", libc::SYS_memfd_create),
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("clone", libc::SYS_clone),
    ("clone3", libc::SYS_clone3),
    ("prctl", libc::SYS_prctl),
    ("seccomp", libc::SYS_seccomp),
    ("prlimit64", libc::SYS_prlimit64),
    ("mlock", libc::SYS_mlock),
    ("shmget", libc::SYS_shmget),
    ("mq_open", libc::SYS_mq_open),
    ("mknodat", libc::SYS_mknodat),
    ("setpriority", libc::SYS_setpriority),
    ("swapoff", libc::SYS_swapoff),
    ("syslog", libc::SYS_syslog),
];
