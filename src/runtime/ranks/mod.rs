//! Processes that work on one run together: how they find each other, sum, gather, agree to stop, and tell a loss.
//!
//! Communication is c10d's, libtorch's own: a store over TCP to find each other, Gloo among CPUs (`native`), and NCCL
//! among GPUs (`nccl`). Every rank runs the same program over the same data; where work can be divided it is shared out
//! by a rule that all know ([`share`]), and every rank gets all results in one order. So nothing but the place where the
//! work is done differs from a run alone.
//!
//! A stop on request counts once all ranks know of it ([`Ranks::check`]); otherwise one would leave while another waits
//! for it. A rank that is lost is noticed by its heart-beat (`watch`) and named.

pub mod launch;
mod native;
mod nccl;
pub mod place;
pub mod share;
mod watch;

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Kind, Tensor};

use super::interrupt::{self, Interrupted};
use super::message::message;
use native::{Gloo, Store};
use nccl::Nccl;
pub use place::Place;
use watch::Watch;

/// Exit code of a rank that ends because another one did: whoever started the ranks looks for the culprit elsewhere.
pub const BYSTANDER_CODE: i32 = 69;

/// Ranks that cannot work together, or not any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RankError {
    /// The variables that say which rank this is do not fit together.
    #[error("{0}")]
    Place(String),
    /// Not all came together.
    #[error("rank {rank} of {size} does not reach the others by {address}: {problem}")]
    Connect {
        /// This rank.
        rank: usize,
        /// Number of ranks.
        size: usize,
        /// Where they meet.
        address: String,
        /// What went wrong.
        problem: String,
    },
    /// A rank is gone without a word.
    #[error(
        "rank {rank} of {size} was lost ({how}); the others stopped, and the last checkpoint stands: run the same command \
         again to go on from it, with any number of ranks"
    )]
    Lost {
        /// Which.
        rank: usize,
        /// Number of ranks.
        size: usize,
        /// How that was noticed.
        how: String,
    },
    /// A rank failed, and says itself why.
    #[error("rank {rank} failed: {message}")]
    Failed {
        /// Which.
        rank: usize,
        /// Its message.
        message: String,
    },
    /// Communication broke off, and every rank is still there.
    #[error("communication between the ranks failed: {0}")]
    Communication(String),
    /// Ranks that should have computed the same did not.
    #[error(
        "the ranks do not agree on {0}; all must run the same program and recipe on the same files and the same kind of \
         machine; the last checkpoint stands"
    )]
    Disagree(String),
}

impl RankError {
    /// Another rank ended first and is told of elsewhere, so that this one need not say anything.
    pub fn is_told_elsewhere(&self) -> bool {
        match self {
            Self::Failed { .. } => true,
            Self::Lost { .. } => launch::is_launched(),
            _ => false,
        }
    }
}

/// Why work among ranks ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Ended {
    /// All stop on request.
    // Not transparent: a stop is known by `Interrupted` in the chain of causes.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// They cannot go on together.
    #[error("{0}")]
    Ranks(#[from] RankError),
    /// What computes broke down: a GPU, or the sandbox. Nothing that it had under way counts.
    #[error("{0}")]
    Broken(String),
}

/// The ranks of a run; cheap to clone. By default there is one, and nothing is communicated.
#[derive(Debug, Clone, Default)]
pub struct Ranks(Option<Rc<Group>>);

struct Group {
    place: Place,
    gloo: Gloo,
    /// Made at the first sum over tensors on GPUs.
    nccl: RefCell<Option<Nccl>>,
    watch: Watch,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.place.rank, self.place.size)
    }
}

impl Ranks {
    /// This process alone.
    pub fn alone() -> Self {
        Self(None)
    }

    /// Find the other ranks. Waits for them up to the place's patience. From here on a stop counts only once all know.
    ///
    /// # Errors
    /// Not all came, or they cannot be reached.
    pub fn connect(mut place: Place) -> Result<Self, RankError> {
        if place.is_local() {
            // A machine's own name may lead to an address that nobody listens on.
            place.address = "127.0.0.1".into();
        }
        if place.size == 1 {
            return Ok(Self(None));
        }
        let fail = |problem: String| RankError::Connect {
            rank: place.rank,
            size: place.size,
            address: format!("{}:{}", place.address, place.port),
            problem,
        };
        let wait = place::patience("ATP_RANKS_TIMEOUT", 300);
        let open = |listening| {
            let server = listening && place.rank == 0;
            Store::open(&place.address, place.port, server, place.listening, wait)
        };
        let store = Arc::new(open(true).map_err(fail)?);
        let watch = Watch::start(open, &store, &place).map_err(fail)?;
        let gloo = Gloo::connect(store, &place, wait).map_err(|problem| match watch.arrived() {
            Ok(here) if here < place.size => fail(format!(
                "only {here} of {} ranks came within {} s",
                place.size,
                wait.as_secs()
            )),
            _ => fail(problem),
        })?;
        interrupt::among_ranks();
        tracing::debug!("rank {} of {} is connected", place.rank, place.size);
        Ok(Self(Some(Rc::new(Group {
            place,
            gloo,
            nccl: RefCell::new(None),
            watch,
        }))))
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |group| group.place.rank)
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |group| group.place.size)
    }

    /// Whether there is no other.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this is the rank that writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// `Err(Interrupted)` on all ranks once a stop was asked of any. All ranks must call it at the same point.
    ///
    /// # Errors
    /// A stop, or a rank that is gone.
    pub fn check(&self) -> Result<(), Ended> {
        if self.is_alone() {
            return Ok(interrupt::check()?);
        }
        let asked = u8::from(interrupt::is_requested());
        self.stop_if(self.gather(&[asked])?.iter().any(|other| other == &[1]))
    }

    fn stop_if(&self, asked: bool) -> Result<(), Ended> {
        if asked {
            interrupt::agree();
            return Err(Interrupted.into());
        }
        Ok(())
    }

    /// Items of a piece of work by what they cost, of which some are this rank's: their places, in order.
    pub fn mine(&self, costs: &[u64]) -> Vec<usize> {
        share::owned(&share::owners(costs, self.size()), self.rank())
    }

    /// Divide work among the ranks: `work` gets the places of this rank's items and gives a result for each. Every rank
    /// gets all results, in the order of the items.
    ///
    /// # Errors
    /// A stop on request, on all ranks alike; a rank that is gone; or what `work` could not do.
    pub fn share<T: Serialize + DeserializeOwned, E: From<Ended> + Error + 'static>(
        &self,
        costs: &[u64],
        work: impl FnOnce(&[usize]) -> Result<Vec<T>, E>,
    ) -> Result<Vec<T>, E> {
        if self.is_alone() {
            let all: Vec<usize> = (0..costs.len()).collect();
            return work(&all);
        }
        let owners = share::owners(costs, self.size());
        let mine = share::owned(&owners, self.rank());
        let done = match interrupt::locally(|| work(&mine)) {
            Ok(done) => Some(done),
            Err(error) if is_stop(&error) => None,
            // The others hear of it as they wait for this rank.
            Err(error) => return Err(error),
        };
        Ok(self.put_together(&owners, done)?)
    }

    /// All results in order, from this rank's, if it was not stopped.
    fn put_together<T: Serialize + DeserializeOwned>(
        &self,
        owners: &[usize],
        done: Option<Vec<T>>,
    ) -> Result<Vec<T>, Ended> {
        let bytes = serde_json::to_vec(&done).map_err(|e| self.unreadable(&e))?;
        let mut parts = vec![];
        for bytes in self.gather(&bytes)? {
            let part: Option<Vec<T>> =
                serde_json::from_slice(&bytes).map_err(|e| self.unreadable(&e))?;
            parts.push(part.map(Vec::into_iter));
        }
        self.stop_if(parts.iter().any(Option::is_none))?;
        let mut next = |owner: &usize| parts[*owner].as_mut().and_then(Iterator::next);
        let all: Option<Vec<T>> = owners.iter().map(&mut next).collect();
        Ok(all.ok_or_else(|| RankError::Disagree("how much work each of them has".into()))?)
    }

    fn unreadable(&self, error: &serde_json::Error) -> RankError {
        RankError::Communication(format!("a message cannot be read or written: {error}"))
    }

    /// Bytes of all ranks, in rank order.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, RankError> {
        let Some(group) = &self.0 else {
            return Ok(vec![bytes.to_vec()]);
        };
        let told = |problem| group.watch.explain(problem);
        let lengths = group
            .gloo
            .gather(&Tensor::from_slice(&[bytes.len() as i64]));
        let lengths = Vec::<i64>::try_from(lengths.map_err(told)?.view([-1]))
            .map_err(|e| RankError::Communication(e.to_string()))?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return Ok(vec![vec![]; lengths.len()]);
        }
        let mut padded = bytes.to_vec();
        padded.resize(longest as usize, 0);
        let all = group
            .gloo
            .gather(&Tensor::from_slice(&padded))
            .map_err(told)?;
        let rows = lengths.iter().enumerate().map(|(rank, &length)| {
            let row = all.get(rank as i64).narrow(0, 0, length);
            Vec::<u8>::try_from(row).map_err(|e| RankError::Communication(e.to_string()))
        });
        rows.collect()
    }

    /// The bytes of rank 0, on every rank; what the others give is not looked at.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>, RankError> {
        let Some(group) = &self.0 else {
            return Ok(bytes.to_vec());
        };
        let told = |problem| group.watch.explain(problem);
        let length = Tensor::from_slice(&[bytes.len() as i64]);
        group.gloo.broadcast(&length, 0).map_err(told)?;
        let length = length.int64_value(&[0]);
        let content = match self.is_first() {
            true => Tensor::from_slice(bytes),
            false => Tensor::zeros([length], (Kind::Uint8, tch::Device::Cpu)),
        };
        if length > 0 {
            group.gloo.broadcast(&content, 0).map_err(told)?;
        }
        Vec::<u8>::try_from(content).map_err(|e| RankError::Communication(e.to_string()))
    }

    /// Wait until all ranks are here.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn barrier(&self) -> Result<(), RankError> {
        self.gather(&[]).map(|_| ())
    }

    /// Do something first on rank 0, then on the first rank of every other machine, then on the rest: what is fetched or
    /// remembered on disk is so made once.
    ///
    /// # Errors
    /// Those of `work`, and a rank that is gone.
    pub fn in_turn<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let Some(group) = &self.0 else {
            return work();
        };
        let turn = match (group.place.rank, group.place.local_rank) {
            (0, _) => 0,
            (_, 0) => 1,
            _ => 2,
        };
        let mut work = Some(work);
        let mut result = None;
        for now in 0..3 {
            if now == turn
                && let Some(work) = work.take()
            {
                result = Some(work()?);
            }
            self.barrier()?;
        }
        result.ok_or_else(|| anyhow::anyhow!("a turn was left out"))
    }

    /// Add up numbers over all ranks, in rank order, so that every rank has the same bits.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn sum_numbers(&self, numbers: &mut [&mut f64]) -> Result<(), RankError> {
        if self.is_alone() {
            return Ok(());
        }
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let parts = self.gather(&bytes)?;
        if parts.iter().any(|part| part.len() != bytes.len()) {
            return Err(RankError::Disagree("how many numbers to add".into()));
        }
        numbers.iter_mut().for_each(|number| **number = 0.0);
        for part in parts {
            for (number, bytes) in numbers.iter_mut().zip(part.chunks_exact(8)) {
                **number += f64::from_le_bytes(bytes.try_into().unwrap_or_default());
            }
        }
        Ok(())
    }

    /// The largest of a number over all ranks.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn largest(&self, number: f64) -> Result<f64, RankError> {
        let parts = self.gather(&number.to_le_bytes())?;
        let numbers = parts
            .iter()
            .filter_map(|part| Some(f64::from_le_bytes(part[..].try_into().ok()?)));
        Ok(numbers.fold(number, f64::max))
    }

    /// Sum a tensor over all ranks, in place: by Gloo on a CPU, by NCCL on GPUs.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn sum(&self, tensor: &Tensor) -> Result<(), RankError> {
        let Some(group) = &self.0 else { return Ok(()) };
        if !tensor.device().is_cuda() {
            return group
                .gloo
                .sum(tensor)
                .map_err(|problem| group.watch.explain(problem));
        }
        if group.nccl.borrow().is_none() {
            let id = self.broadcast(&if self.is_first() { Nccl::id()? } else { vec![] })?;
            let made = Nccl::connect(&id, group.place.rank, group.place.size, tensor.device())?;
            *group.nccl.borrow_mut() = Some(made);
        }
        let lost = || group.watch.loss();
        match &*group.nccl.borrow() {
            Some(nccl) => nccl
                .sum(tensor, lost)
                .map_err(|problem| group.watch.explain(problem)),
            None => Ok(()),
        }
    }

    /// All ranks have this same text, or it is an error that says what it is of.
    ///
    /// # Errors
    /// They differ, or a rank is gone.
    pub fn agree_on(&self, what: &str, text: &str) -> Result<(), RankError> {
        let all = self.gather(text.as_bytes())?;
        let other = |rank: &usize| all[*rank] != all[0];
        let others: Vec<String> = (0..all.len())
            .filter(other)
            .map(|rank| rank.to_string())
            .collect();
        match others.len() {
            0 => Ok(()),
            1 => Err(RankError::Disagree(format!(
                "{what}: rank {} differs from rank 0",
                others[0]
            ))),
            _ => Err(RankError::Disagree(format!(
                "{what}: ranks {} differ from rank 0",
                others.join(", ")
            ))),
        }
    }

    /// Tell the others that this rank failed, and why; false where another one said so before.
    fn fail(&self, message: &str) -> bool {
        match &self.0 {
            None => true,
            Some(group) => group.watch.fail(message),
        }
    }

    /// What becomes of this rank's error: the others are told, and where one of them was first, its message is the one to
    /// show, not this. Stops on request are nobody's failure.
    pub fn conclude<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let Err(error) = &result else {
            self.part();
            return result;
        };
        let known = |cause: &(dyn std::error::Error + 'static)| {
            cause.is::<Interrupted>() || cause.is::<RankError>()
        };
        if self.is_alone() || error.chain().any(known) || self.fail(&message(error)) {
            return result;
        }
        let (rank, message) = (self.rank(), message(error));
        Err(RankError::Failed { rank, message }.into())
    }

    /// Part in good order: nobody leaves before all are done.
    fn part(&self) {
        if let Some(group) = &self.0 {
            if let Err(error) = self.barrier() {
                tracing::debug!("at parting: {error}");
            }
            group.watch.part();
        }
    }
}

/// Whether this is a stop on request, under whatever error.
fn is_stop(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<Interrupted>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Wait a moment between two looks at something.
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

#[cfg(test)]
mod tests;
