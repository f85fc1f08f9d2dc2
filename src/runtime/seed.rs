//! Named, seeded random streams.
//!
//! Every random draw of a run comes from a stream that is named by what it is for, for example
//! `evaluate/dpo/round-3/test/bakery/01`. A stream depends on the root seed and its name alone, so the order in which
//! work is done, and a resume in its middle, cannot change a draw.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// 256 bits that depend on the root seed and the name alone.
fn key(root: u64, name: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"atp-stream\0");
    hash.update(root.to_le_bytes());
    hash.update(name.as_bytes());
    hash.finalize().into()
}

/// The random stream of this name.
pub fn stream(root: u64, name: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(key(root, name))
}

/// A seed for a part of the work, to be handed down as that part's root.
pub fn derive(root: u64, name: &str) -> u64 {
    let bytes = key(root, name);
    u64::from_le_bytes(bytes[..8].try_into().expect("eight of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn a_stream_depends_on_seed_and_name_alone() {
        let draw = |root, name| stream(root, name).random::<u64>();
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(derive(1, "a"), derive(1, "b"));
    }
}
