//! Where there is no Linux there is no sandbox, and nothing runs.

use super::{Execution, SandboxConfig, SandboxError};

/// Cannot be made here.
#[derive(Debug)]
pub struct Sandbox(std::convert::Infallible);

/// Nothing is enforced here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Capabilities(());

impl Sandbox {
    /// Always refused.
    ///
    /// # Errors
    /// [`SandboxError::NotConfined`], whatever is set.
    pub fn new(_: &SandboxConfig) -> Result<Self, SandboxError> {
        Err(SandboxError::NotConfined {
            missing: format!("the sandbox needs Linux, this is {}", std::env::consts::OS),
        })
    }

    /// Cannot be called.
    pub fn run<S: AsRef<str> + Sync>(&self, _: &[S]) -> Vec<Execution> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn workers(&self) -> usize {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn capabilities(&self) -> Capabilities {
        match self.0 {}
    }
}

impl Capabilities {
    /// Nothing.
    pub fn of_kernel() -> Self {
        Self(())
    }

    /// Everything.
    pub fn missing(&self) -> Option<String> {
        Some(format!(
            "the sandbox needs Linux, this is {}",
            std::env::consts::OS
        ))
    }
}

impl std::fmt::Display for Capabilities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing is enforced here")
    }
}
