//! seccomp: which system calls a worker and a program may make.
//!
//! Three filters lie on each other, and the strictest verdict counts: a list of what is allowed, all else fails with
//! EPERM; a list of what only an attack calls, which ends the process; and what glibc probes for and has another way
//! to do (clone3, openat2 and all that is newer than this list), which fails with ENOSYS as on an old kernel. Another
//! architecture's entry (`int 0x80`) ends the process, and x32 numbers are not on the list.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What any calculation may call. No sockets, no signals to others, no processes or threads, no modes, owners or times
/// of files (Landlock does not know those), no limits, and `truncate` only on open files.
const CALCULATE: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fadvise64,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_umask,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_setitimer,
    libc::SYS_getitimer,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getpriority,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The older forms of the same calls, which newer architectures do without.
#[cfg(target_arch = "x86_64")]
const CALCULATE_OLDER: &[c_long] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_getdents,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_alarm,
    libc::SYS_pause,
    libc::SYS_time,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const CALCULATE_OLDER: &[c_long] = &[];

/// What the zygote needs besides: start Python, import, talk over its socket, fork and confine a child, end it.
const WORK: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_kill,
    libc::SYS_pidfd_open,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_landlock_restrict_self,
    libc::SYS_prlimit64,
];

/// What no calculation calls, not even to find out whether it could.
const ATTACK: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_personality,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_lookup_dcookie,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_execveat,
];
#[cfg(target_arch = "x86_64")]
const ATTACK_OLDER: &[c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ATTACK_OLDER: &[c_long] = &[];

/// The newest call that the lists above know (`mseal`); what comes after fails with ENOSYS, as it would on a kernel of
/// that time.
const NEWEST_KNOWN: c_long = 462;
const NUMBERS_TO_COME: c_long = 700;

/// The filters of a worker, in the order of their installation.
pub(super) fn worker_filters() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut allowed = calculate()?;
    allow(&mut allowed, WORK);
    // A child, but no namespace with it. Glibc's fork is a clone; the older call is another name of it.
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u32;
    let plain = argument(0, Len::Qword, Op::MaskedEq(u64::from(namespaces)), 0)?;
    allowed.insert(libc::SYS_clone, vec![SeccompRule::new(vec![plain])?]);
    let attack = listed(&[ATTACK, ATTACK_OLDER]);
    let mut unknown = listed(&[&[libc::SYS_clone3, libc::SYS_openat2, libc::SYS_futex_waitv]]);
    unknown.extend((NEWEST_KNOWN + 1..NUMBERS_TO_COME).map(|number| (number, Vec::new())));
    Ok(vec![
        program(allowed, errno(libc::EPERM), SeccompAction::Allow)?,
        program(attack, SeccompAction::Allow, SeccompAction::KillProcess)?,
        program(unknown, SeccompAction::Allow, errno(libc::ENOSYS))?,
    ])
}

/// The filter of a program, on top of its worker's.
pub(super) fn program_filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut allowed = calculate()?;
    // Limits may be read, and only its own.
    let own = argument(0, Len::Dword, Op::Eq, 0)?;
    let unchanged = argument(2, Len::Qword, Op::Eq, 0)?;
    allowed.insert(
        libc::SYS_prlimit64,
        vec![SeccompRule::new(vec![own, unchanged])?],
    );
    program(allowed, errno(libc::EPERM), SeccompAction::Allow)
}

/// A filter as the kernel reads it.
pub(super) fn as_bytes(filter: &BpfProgram) -> Vec<u8> {
    let instruction = |i: &seccompiler::sock_filter| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&i.code.to_ne_bytes());
        (bytes[2], bytes[3]) = (i.jt, i.jf);
        bytes[4..].copy_from_slice(&i.k.to_ne_bytes());
        bytes
    };
    filter.iter().flat_map(instruction).collect()
}

/// Whether the kernel has what the filters need.
pub(super) fn available() -> bool {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the call only reads the action, which lives during it.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    answer == 0 && seccompiler::TargetArch::try_from(std::env::consts::ARCH).is_ok()
}

fn calculate() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = listed(&[CALCULATE, CALCULATE_OLDER]);
    // Emptying a file wants write access: Landlock before its third version does not see O_TRUNC by itself.
    let openings = |flags: u8| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let truncate = libc::O_TRUNC as u64;
        let mask = truncate | libc::O_ACCMODE as u64;
        let without = argument(flags, Len::Dword, Op::MaskedEq(truncate), 0)?;
        let mut rules = vec![SeccompRule::new(vec![without])?];
        for mode in [libc::O_WRONLY, libc::O_RDWR] {
            let value = truncate | mode as u64;
            let writing = argument(flags, Len::Dword, Op::MaskedEq(mask), value)?;
            rules.push(SeccompRule::new(vec![writing])?);
        }
        Ok(rules)
    };
    rules.insert(libc::SYS_openat, openings(2)?);
    #[cfg(target_arch = "x86_64")]
    {
        rules.insert(libc::SYS_open, openings(1)?);
        rules.insert(libc::SYS_creat, Vec::new());
    }
    // Not F_SETOWN, F_SETSIG and their like: by them the kernel would send a signal on the program's behalf.
    let commands = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GETLK,
        libc::F_SETLK,
        libc::F_SETLKW,
        libc::F_OFD_GETLK,
        libc::F_OFD_SETLK,
        libc::F_OFD_SETLKW,
    ];
    rules.insert(libc::SYS_fcntl, one_of(1, commands.map(|c| c as u64))?);
    let requests = [
        libc::TCGETS,
        libc::TIOCGWINSZ,
        libc::FIOCLEX,
        libc::FIONCLEX,
        libc::FIONBIO,
        libc::FIONREAD,
    ];
    rules.insert(
        libc::SYS_ioctl,
        one_of(1, requests.map(|r| u64::from(r as u32)))?,
    );
    Ok(rules)
}

fn listed(lists: &[&[c_long]]) -> Rules {
    let mut rules = Rules::new();
    lists.iter().for_each(|list| allow(&mut rules, list));
    rules
}

fn allow(rules: &mut Rules, list: &[c_long]) {
    rules.extend(list.iter().map(|&number| (number, Vec::new())));
}

fn one_of<const N: usize>(
    index: u8,
    values: [u64; N],
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values
        .into_iter()
        .map(|value| SeccompRule::new(vec![argument(index, Len::Dword, Op::Eq, value)?]))
        .collect()
}

fn argument(
    index: u8,
    length: Len,
    operator: Op,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, length, operator, value)
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number as u32)
}

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()
}
