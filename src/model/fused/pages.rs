//! Who holds which page of the paged cache, and which pages hold the beginning of a text that may come again.
//!
//! A page that is full is known by all tokens up to its end, so a prompt that begins like an earlier one takes its
//! pages instead of computing them: the group of a GRPO prompt, a system prompt common to agents, the last round's
//! history, the turns before a tool's answer. Pages that nobody holds stay known until room is needed, the ones unused
//! the longest go first.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

/// Name of a full page: a digest of the weights' name and all tokens to its end.
pub type Key = [u8; 32];

#[derive(Debug, Default, Clone)]
struct Page {
    holders: u32,
    key: Option<Key>,
    /// When it was last let go.
    stamp: u64,
}

/// All pages of a cache.
#[derive(Debug)]
pub struct PagePool {
    pages: Vec<Page>,
    /// Pages that hold nothing known.
    blank: Vec<u32>,
    /// Known pages that nobody holds, by age.
    idle: BTreeMap<u64, u32>,
    known: HashMap<Key, u32>,
    clock: u64,
}

impl PagePool {
    /// So many, all blank.
    pub fn new(pages: usize) -> Self {
        Self {
            pages: vec![Page::default(); pages],
            blank: (0..pages as u32).rev().collect(),
            idle: BTreeMap::new(),
            known: HashMap::new(),
            clock: 0,
        }
    }

    /// Have so many in all; the further ones are blank.
    pub fn extend(&mut self, pages: usize) {
        let had = self.pages.len();
        if pages > had {
            self.pages.resize(pages, Page::default());
            // Old ones are taken first: they may have memory already.
            let mut blank: Vec<u32> = (had as u32..pages as u32).rev().collect();
            blank.append(&mut self.blank);
            self.blank = blank;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Pages that can be taken.
    pub fn free(&self) -> usize {
        self.blank.len() + self.idle.len()
    }

    /// Take a page; an idle one forgets what it held.
    pub fn take(&mut self) -> Option<u32> {
        let page = match self.blank.pop() {
            Some(page) => page,
            None => {
                let (_, page) = self.idle.pop_first()?;
                if let Some(key) = self.pages[page as usize].key.take() {
                    self.known.remove(&key);
                }
                page
            }
        };
        self.pages[page as usize].holders = 1;
        Some(page)
    }

    /// Hold the page of this name too, if there is one.
    pub fn share(&mut self, key: &Key) -> Option<u32> {
        let page = *self.known.get(key)?;
        let entry = &mut self.pages[page as usize];
        if entry.holders == 0 {
            self.idle.remove(&entry.stamp);
        }
        entry.holders += 1;
        Some(page)
    }

    /// Give a page that is held a name. Where the name is taken, the page stays nameless.
    pub fn name(&mut self, page: u32, key: Key) {
        let entry = &mut self.pages[page as usize];
        debug_assert!(entry.holders > 0);
        if entry.key.is_none() && !self.known.contains_key(&key) {
            entry.key = Some(key);
            self.known.insert(key, page);
        }
    }

    /// Take a page's name away: what it was to hold was never computed.
    pub fn forget(&mut self, page: u32) {
        if let Some(key) = self.pages[page as usize].key.take() {
            self.known.remove(&key);
        }
    }

    /// Let go of a page.
    pub fn drop(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        debug_assert!(entry.holders > 0, "page {page} is dropped by nobody");
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        if entry.key.is_some() {
            self.clock += 1;
            entry.stamp = self.clock;
            self.idle.insert(self.clock, page);
        } else {
            self.blank.push(page);
        }
    }
}

/// Names of the full pages of a text under the weights of this name.
pub fn keys(weights: &Key, tokens: &[u32], page: usize) -> Vec<Key> {
    let mut before = *weights;
    let names = tokens.chunks_exact(page).map(|tokens| {
        let mut digest = Sha256::new();
        digest.update(before);
        for token in tokens {
            digest.update(token.to_le_bytes());
        }
        before = digest.finalize().into();
        before
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WEIGHTS: Key = [7; 32];

    #[test]
    fn texts_share_what_they_begin_with_and_nothing_more() {
        let (a, b) = (
            keys(&WEIGHTS, &[1, 2, 3, 4, 5, 6, 7], 2),
            keys(&WEIGHTS, &[1, 2, 3, 4, 9, 6], 2),
        );
        assert_eq!(a.len(), 3);
        assert_eq!(a[..2], b[..2]);
        assert_ne!(a[2], b[2]);
        // The same tokens after another beginning, or under other weights, are another page.
        assert_ne!(keys(&WEIGHTS, &[9, 9, 3, 4], 2)[1], a[1]);
        assert_ne!(keys(&[8; 32], &[1, 2], 2)[0], a[0]);
    }

    #[test]
    fn what_nobody_holds_stays_known_until_room_is_needed() {
        let mut pool = PagePool::new(2);
        let key = keys(&WEIGHTS, &[1], 1)[0];
        let page = pool.take().expect("room");
        pool.name(page, key);
        pool.drop(page);
        assert_eq!(pool.free(), 2);
        assert_eq!(pool.share(&key), Some(page));
        assert_eq!(pool.free(), 1);
        pool.drop(page);
        // The blank page goes first, then the known one, which is forgotten.
        assert_ne!(pool.take(), Some(page));
        assert_eq!(pool.take(), Some(page));
        assert_eq!(pool.share(&key), None);
        assert_eq!(pool.take(), None);
    }

    /// What a driver of the pool may do.
    #[derive(Debug, Clone)]
    enum Act {
        Take,
        Name(usize, u8),
        Share(u8),
        Drop(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            Just(Act::Take),
            (any::<usize>(), any::<u8>()).prop_map(|(i, k)| Act::Name(i, k % 16)),
            any::<u8>().prop_map(|k| Act::Share(k % 16)),
            any::<usize>().prop_map(Act::Drop),
        ]
    }

    proptest! {
        #[test]
        fn no_page_is_lost_or_given_twice(acts in prop::collection::vec(act(), 1..200)) {
            let mut pool = PagePool::new(8);
            let mut held: Vec<u32> = Vec::new();
            let mut contents: HashMap<u32, Option<u8>> = HashMap::new();
            for act in acts {
                match act {
                    Act::Take => match pool.take() {
                        Some(page) => {
                            prop_assert!(!held.contains(&page));
                            held.push(page);
                            contents.insert(page, None);
                        }
                        None => prop_assert_eq!(held.iter().collect::<std::collections::BTreeSet<_>>().len(), 8),
                    },
                    Act::Name(i, k) if !held.is_empty() => {
                        let page = held[i % held.len()];
                        let known = contents.values().any(|c| *c == Some(k));
                        pool.name(page, [k; 32]);
                        if contents[&page].is_none() && !known {
                            contents.insert(page, Some(k));
                        }
                    }
                    Act::Share(k) => if let Some(page) = pool.share(&[k; 32]) {
                        // A page found by a name holds what that name stands for.
                        prop_assert_eq!(contents.get(&page).copied().flatten(), Some(k));
                        held.push(page);
                    },
                    Act::Drop(i) if !held.is_empty() => {
                        let page = held.swap_remove(i % held.len());
                        pool.drop(page);
                    }
                    _ => {}
                }
                let distinct: std::collections::BTreeSet<_> = held.iter().collect();
                prop_assert_eq!(pool.free() + distinct.len(), 8);
            }
        }
    }
}
