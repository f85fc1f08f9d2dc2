//! One zygote as seen from here: started, spoken to, ended.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use super::capabilities::Namespaces;
use super::python::Python;
use super::rules::Domain;
use super::scratch::Scratch;
use super::spawn::{Launch, c_path, failure};
use super::{SandboxError, syscalls};

const SOURCE: &str = include_str!("worker.py");
/// Importing sympy from a cold network disk takes its time.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Address space that Python and its packages are taken to need where it cannot be read.
const USUAL_ADDRESS_SPACE: u64 = 1 << 30;

/// A worker that is ready, or was.
pub(super) struct Worker {
    pid: libc::pid_t,
    control: OwnedFd,
    log: File,
    /// Bytes of address space before any program.
    pub address_space: u64,
    /// What it has, each as name and version.
    pub packages: Vec<(String, String)>,
}

/// How a program ended, as the kernel told the worker.
pub(super) struct Ended {
    /// Whether the child was confined and went on to the program.
    pub prepared: bool,
    /// Of `wait4`.
    pub status: i32,
    /// Processor seconds.
    pub cpu_seconds: f64,
}

impl Worker {
    /// Start one and wait until it has imported everything.
    pub(super) fn start(
        python: &Python,
        scratch: &Scratch,
        namespaces: Namespaces,
        confined: bool,
    ) -> Result<Self, SandboxError> {
        let start_error = |problem: String| SandboxError::Start { problem };
        let (mut ruleset, mut filters, mut filter) = (None, Vec::new(), Vec::new());
        if confined {
            let executable: Vec<_> = [Some(&python.executable), python.loader.as_ref()]
                .into_iter()
                .flatten()
                .map(|path| path.as_path())
                .collect();
            let domain = Domain {
                readable: &python.readable,
                executable: &executable,
                scratch: scratch.root(),
            };
            let made = domain
                .ruleset()
                .map_err(|error| start_error(error.to_string()))?;
            ruleset = Some(made.ok_or_else(|| start_error("Landlock made no ruleset".into()))?);
            let compiled = syscalls::worker_filters()
                .and_then(|worker| Ok((worker, syscalls::program_filter()?)))
                .map_err(|error| start_error(error.to_string()))?;
            filters = compiled.0;
            filter = syscalls::as_bytes(&compiled.1);
        }
        let text = |text: &str| CString::new(text).map_err(io::Error::from);
        let environment = environment(python).map_err(SandboxError::io("name its variables"))?;
        let launch = (|| {
            Ok(Launch {
                namespaces,
                executable: c_path(&python.executable)?,
                arguments: vec![
                    c_path(&python.executable)?,
                    text("-s")?,
                    text("-S")?,
                    text("-B")?,
                    text("-c")?,
                    text(SOURCE)?,
                ],
                environment,
                folder: c_path(scratch.root())?,
                ruleset,
                filters,
            })
        })()
        .map_err(SandboxError::io("describe a worker"))?;
        let started = launch
            .start()
            .map_err(SandboxError::io("make a process for a worker"))?;
        let mut worker = Self {
            pid: started.pid,
            control: started.control,
            log: started.log,
            address_space: USUAL_ADDRESS_SPACE,
            packages: Vec::new(),
        };
        let path: Vec<&[u8]> = python
            .path
            .iter()
            .map(|path| path.as_os_str().as_bytes())
            .collect();
        filter.insert(0, b'F');
        // A worker that is gone already says why below.
        let _ = worker.send(&path.join(&b'\n'), &[]);
        let _ = worker.send(&filter, &[]);
        let ready = worker.receive(Instant::now() + START_LIMIT);
        let packet = match ready {
            Ok(Some(packet)) => packet,
            Ok(None) => return Err(start_error(format!("not ready after {START_LIMIT:?}"))),
            Err(_) => return Err(start_error(worker.last_words())),
        };
        if let Some(reason) = failure(&packet) {
            return Err(start_error(reason));
        }
        worker.packages = String::from_utf8_lossy(&packet)
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect();
        if let Some(bytes) = worker.measure_address_space() {
            worker.address_space = bytes;
        }
        tracing::debug!(
            pid = worker.pid,
            mib = worker.address_space >> 20,
            "sandbox worker ready"
        );
        Ok(worker)
    }

    fn measure_address_space(&self) -> Option<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let pages: u64 = statm.split(' ').next()?.parse().ok()?;
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Some(pages * u64::try_from(page).ok()?)
    }

    /// What it wrote before it went, or how it went.
    fn last_words(&mut self) -> String {
        let mut status = 0;
        // SAFETY: our child; it has closed its socket, so it is at its end, and the kill makes sure.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, &mut status, 0);
        }
        self.pid = 0;
        let mut text = Vec::new();
        let _ = self.log.rewind();
        let _ = self.log.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        match text.trim().lines().last() {
            Some(line) => line.to_owned(),
            None => format!("Python ended with wait status {status:#x} and said nothing"),
        }
    }

    /// Its socket, to wait on.
    pub(super) fn control(&self) -> &OwnedFd {
        &self.control
    }

    /// Send one packet, with descriptors.
    pub(super) fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut part = libc::iovec {
            iov_base: packet.as_ptr().cast_mut().cast(),
            iov_len: packet.len(),
        };
        // Room for a header and four descriptors, aligned as a header is.
        let mut ancillary = [0u64; 8];
        let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let length = size_of_val(numbers.as_slice());
        // SAFETY: the message points to the packet and to the room above, both alive during the call; the header and
        // its data are written within that room, which CMSG_SPACE of four descriptors fits into.
        let sent = unsafe {
            let mut message = std::mem::zeroed::<libc::msghdr>();
            message.msg_iov = &mut part;
            message.msg_iovlen = 1;
            if !numbers.is_empty() {
                assert!(numbers.len() <= 4, "the room is for four descriptors");
                message.msg_control = ancillary.as_mut_ptr().cast();
                message.msg_controllen = libc::CMSG_SPACE(length as u32) as _;
                let header = libc::CMSG_FIRSTHDR(&message);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(length as u32) as _;
                let data = libc::CMSG_DATA(header);
                std::ptr::copy_nonoverlapping(numbers.as_ptr().cast(), data, length);
            }
            libc::sendmsg(self.control.as_raw_fd(), &message, libc::MSG_NOSIGNAL)
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The next packet, or `None` at the deadline.
    ///
    /// # Errors
    /// The worker is gone.
    fn receive(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let mut waited = [poll_for(&self.control)];
        if !wait(&mut waited, deadline)? {
            return Ok(None);
        }
        let mut buffer = vec![0; 4096];
        // SAFETY: the buffer and its length.
        let count = unsafe {
            libc::recv(
                self.control.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        match count {
            ..0 => Err(io::Error::last_os_error()),
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                buffer.truncate(count as usize);
                Ok(Some(buffer))
            }
        }
    }

    /// How the program ended, or `None` at the deadline.
    ///
    /// # Errors
    /// The worker is gone, or talks nonsense.
    pub(super) fn ended(&self, deadline: Instant) -> io::Result<Option<Ended>> {
        let Some(packet) = self.receive(deadline)? else {
            return Ok(None);
        };
        // As `REPLY` in worker.py, whose fields are aligned as in C.
        let field = |at: usize| packet.get(at..at + 4).and_then(|b| b.try_into().ok());
        let seconds = packet.get(8..16).and_then(|b| b.try_into().ok());
        match (packet.first(), packet.get(1), field(4), seconds) {
            (Some(b'D'), Some(&prepared), Some(status), Some(seconds)) => Ok(Some(Ended {
                prepared: prepared == 1,
                status: i32::from_ne_bytes(status),
                cpu_seconds: f64::from_ne_bytes(seconds),
            })),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: our own child, not yet waited for, so the number is still its own. As the first process of its
            // namespace it takes everything in it along; without one, its child dies by its parent-death signal.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// To wait for input or the end of input.
pub(super) fn poll_for(descriptor: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Wait for one of them; false at the deadline.
pub(super) fn wait(descriptors: &mut [libc::pollfd], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that it does not spin in the last millisecond.
        let milliseconds = left.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
        // SAFETY: the slice and its length.
        let ready = unsafe {
            libc::poll(
                descriptors.as_mut_ptr(),
                descriptors.len() as libc::nfds_t,
                milliseconds,
            )
        };
        match ready {
            ..0 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            0 => return Ok(false),
            _ => return Ok(true),
        }
    }
}

/// Nothing of our own environment but where libraries are found.
fn environment(python: &Python) -> io::Result<Vec<CString>> {
    let mut home = b"PYTHONHOME=".to_vec();
    home.extend(python.home.as_bytes());
    let mut variables = vec![CString::new(home)?];
    for fixed in [
        "PYTHONHASHSEED=0",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONNOUSERSITE=1",
        "PYTHONSAFEPATH=1",
        "PYTHONUTF8=1",
        "LANG=C.UTF-8",
        "TZ=UTC",
        "OPENBLAS_NUM_THREADS=1",
        "OMP_NUM_THREADS=1",
        "MKL_NUM_THREADS=1",
    ] {
        variables.push(CString::new(fixed)?);
    }
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        let mut variable = b"LD_LIBRARY_PATH=".to_vec();
        variable.extend(OsStr::as_bytes(&path));
        variables.push(CString::new(variable)?);
    }
    Ok(variables)
}
