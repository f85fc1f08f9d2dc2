//! Shows a file in the reader's browser.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

/// Programs that open a file with what the desktop has for it, the first that is there is used.
const OPENERS: [&str; 3] = ["xdg-open", "open", "wslview"];

/// Opens `path` by the desktop's own means.
///
/// # Errors
/// No such program, or it failed; the message says where the file is, as it can still be opened by hand.
pub(super) fn show(path: &Path) -> anyhow::Result<()> {
    let path = std::path::absolute(path)?;
    for opener in OPENERS {
        let started = Command::new(opener)
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        let output = match started {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => bail!(
                "--open: `{opener}` cannot be started: {error}; open {} by hand",
                path.display()
            ),
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it gave no reason");
        bail!(
            "--open: `{opener}` failed ({said}); open {} by hand",
            path.display()
        );
    }
    bail!(
        "--open: expected one of {} in PATH, got none; open {} by hand",
        OPENERS.map(|name| format!("`{name}`")).join(", "),
        path.display()
    )
}
