//! Landlock: which files a worker and a program may touch.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope, make_bitflags, path_beneath_rules,
};

/// The newest rights asked for. An older kernel enforces those it knows; seccomp covers what then is missing.
const NEWEST: ABI = ABI::V6;

/// What may be touched.
pub(super) struct Domain<'a> {
    /// Read, nothing else.
    pub readable: &'a [PathBuf],
    /// Started and read; none for a program.
    pub executable: &'a [&'a Path],
    /// Everything but devices.
    pub scratch: &'a Path,
}

impl Domain<'_> {
    /// The ruleset; `None` where the kernel has no Landlock.
    pub(super) fn ruleset(&self) -> Result<Option<OwnedFd>, RulesetError> {
        let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let devices =
            make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev | Execute | MakeSock});
        let scratch = AccessFs::from_all(NEWEST) & !devices;
        let null = make_bitflags!(AccessFs::{ReadFile | WriteFile});
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(self.readable, read))?
            .add_rules(path_beneath_rules(
                self.executable,
                read | AccessFs::Execute,
            ))?
            .add_rules(path_beneath_rules(["/dev/null"], null))?
            .add_rules(path_beneath_rules([self.scratch], scratch))?;
        Ok(ruleset.into())
    }
}

/// The kernel's Landlock version; `None` without Landlock.
pub(super) fn abi() -> Option<u32> {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with the version flag the call takes no ruleset and only answers with a number.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) };
    u32::try_from(answer).ok().filter(|&version| version > 0)
}
