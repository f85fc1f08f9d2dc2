//! Threads that work through many short phases together.
//!
//! A forward of one token a sequence is some hundreds of loops of a few microseconds each. Waking threads for every loop
//! costs more than the loop, so they stay awake from the first phase to the last: one of them leads, the others take
//! tasks as phases are announced. Who comes late, because another program has the core, finds fewer tasks left; nobody
//! waits for a thread that has taken none.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Bits of the ticket that count tasks: most tasks of a phase.
const BITS: u32 = 24;
const MASK: u64 = (1 << BITS) - 1;
/// Beyond every task: nothing is left to take. Not all ones, so that a thread that counts on once more carries nothing over.
const SHUT: u64 = 1 << (BITS - 1);
/// Looks at the ticket before a waiting thread lets others have the core.
const PATIENCE: u32 = 1 << 12;

type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// The leader's side of a team at work.
pub struct Team {
    /// Phase number, number of tasks, next task: one word, so that who takes a task knows what it belongs to.
    ticket: AtomicU64,
    /// Tasks of this phase that are done.
    done: AtomicUsize,
    work: UnsafeCell<Option<*const Work<'static>>>,
    over: AtomicBool,
    broken: AtomicBool,
    /// Threads of the team, the leader among them.
    threads: usize,
}

// SAFETY: `work` is written by the leader alone, while no task is left to take and all that were taken are done; it is
// read by threads that have taken a task, which happens after the ticket of its phase was published.
unsafe impl Sync for Team {}

/// Counts a task as done even where it panics, and says so.
struct Done<'a>(&'a Team);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Relaxed);
        }
        self.0.done.fetch_add(1, Ordering::Release);
    }
}

/// Waits for the tasks that were taken, so that none outlives the closure, even where the leader panics in one.
struct Phase<'a>(&'a Team, usize);

impl Drop for Phase<'_> {
    fn drop(&mut self) {
        let taken = (self.0.ticket.fetch_or(SHUT, Ordering::Relaxed) & MASK).min(self.1 as u64);
        let mut looks = 0;
        while (self.0.done.load(Ordering::Acquire) as u64) < taken {
            wait(&mut looks);
        }
    }
}

/// Sends the helpers home, whatever happens to the leader.
struct Over<'a>(&'a Team);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

/// Run `lead` on this thread, with others at its side.
///
/// The others are those that libtorch's own loops run on, where they can be had: between two of its loops they wait
/// awake for the next, and a second set of threads would have to share the cores with them.
pub fn with_team<R, F: FnOnce(&Team) -> R>(lead: F) -> R {
    with_threads(tch::get_num_threads().max(1) as usize, lead)
}

fn with_threads<R, F: FnOnce(&Team) -> R>(threads: usize, lead: F) -> R {
    let team = Team {
        ticket: AtomicU64::new(0),
        done: AtomicUsize::new(0),
        work: UnsafeCell::new(None),
        over: AtomicBool::new(false),
        broken: AtomicBool::new(false),
        threads,
    };
    let parallel = match openmp() {
        Some(parallel) if threads > 1 => parallel,
        _ => {
            let alone = Team { threads: 1, ..team };
            return lead(&alone);
        }
    };
    let mut call = Call {
        team: &team,
        // SAFETY: takes nothing and gives the caller's own handle.
        leader: unsafe { libc::pthread_self() },
        lead: Some(lead),
        outcome: None,
    };
    // SAFETY: `enter` takes the call it is given; every thread has left it when this returns.
    unsafe {
        parallel(
            enter::<F, R>,
            (&raw mut call).cast(),
            threads as libc::c_uint,
            0,
        );
    }
    match call.outcome {
        Some(Ok(result)) => result,
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        None => unreachable!("the calling thread is one of the team"),
    }
}

/// What the threads of a team are given.
struct Call<'a, F, R> {
    team: &'a Team,
    leader: libc::pthread_t,
    /// Taken by the leader alone.
    lead: Option<F>,
    outcome: Option<std::thread::Result<R>>,
}

type Parallel = unsafe extern "C" fn(
    unsafe extern "C" fn(*mut libc::c_void),
    *mut libc::c_void,
    libc::c_uint,
    libc::c_uint,
);

/// `GOMP_parallel` of the OpenMP library that libtorch runs on: calls a function on so many threads, this one among them,
/// and returns when all have.
fn openmp() -> Option<Parallel> {
    static FOUND: std::sync::OnceLock<Option<Parallel>> = std::sync::OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: a plain look-up among the libraries that are loaded.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
        // SAFETY: the function of this name has this type in every OpenMP library for code compiled by GCC.
        (!found.is_null())
            .then(|| unsafe { std::mem::transmute::<*mut libc::c_void, Parallel>(found) })
    })
}

/// # Safety
/// `data` must be a [`Call`] of these types that outlives the call; of all threads, one is its leader.
unsafe extern "C" fn enter<F: FnOnce(&Team) -> R, R>(data: *mut libc::c_void) {
    let call = data.cast::<Call<'_, F, R>>();
    // SAFETY: these two fields are not written while threads are at work.
    let (team, leader) = unsafe { (&(*call).team, (*call).leader) };
    // SAFETY: takes nothing.
    if unsafe { libc::pthread_self() } != leader {
        // A panic is counted by the team and told by its leader; it must not unwind through foreign code.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| team.help()));
        return;
    }
    let _over = Over(team);
    // SAFETY: only the leader touches these fields.
    unsafe {
        if let Some(lead) = (*call).lead.take() {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lead(team)));
            (*call).outcome = Some(outcome);
        }
    }
}

impl Team {
    /// Number of threads, the leader among them.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Call `work` with every number below `tasks`, once each, and return when all calls have.
    pub fn each(&self, tasks: usize, work: &Work<'_>) {
        assert!((tasks as u64) < SHUT, "more tasks than a phase can have");
        if self.threads < 2 || tasks < 2 {
            (0..tasks).for_each(work);
            return;
        }
        self.done.store(0, Ordering::Relaxed);
        // SAFETY: the pointer is used by tasks of this phase only, and all of them are done before this call returns;
        // the slot is not read meanwhile, see above.
        unsafe {
            *self.work.get() =
                Some(std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work));
        }
        let phase = (self.ticket.load(Ordering::Relaxed) >> (2 * BITS)).wrapping_add(1);
        let announced = phase << (2 * BITS) | (tasks as u64) << BITS;
        self.ticket.store(announced, Ordering::Release);
        let phase = Phase(self, tasks);
        while self.take() {}
        drop(phase);
        assert!(!self.broken.load(Ordering::Relaxed), "a task panicked");
    }

    /// Call `work` with ranges of so many numbers below `count`, the last maybe shorter.
    pub fn ranges(&self, count: usize, size: usize, work: impl Fn(Range<usize>) + Sync) {
        self.each(count.div_ceil(size), &|task| {
            work(task * size..count.min((task + 1) * size));
        });
    }

    /// Take a task and do it; false where none is left.
    fn take(&self) -> bool {
        let seen = self.ticket.load(Ordering::Relaxed);
        if seen & MASK >= seen >> BITS & MASK {
            return false;
        }
        let ticket = self.ticket.fetch_add(1, Ordering::Acquire);
        let task = ticket & MASK;
        if task >= ticket >> BITS & MASK {
            return false;
        }
        let _done = Done(self);
        // SAFETY: the task is taken and not done, so the slot holds this phase's work and is not written.
        if let Some(work) = unsafe { *self.work.get() } {
            // SAFETY: the leader keeps the closure alive until all tasks are done.
            unsafe { (*work)(task as usize) };
        }
        true
    }

    fn help(&self) {
        let mut looks = 0;
        while !self.over.load(Ordering::Acquire) {
            match self.take() {
                true => looks = 0,
                false => wait(&mut looks),
            }
        }
    }
}

fn wait(looks: &mut u32) {
    *looks += 1;
    match *looks < PATIENCE {
        true => std::hint::spin_loop(),
        false => std::thread::yield_now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_of_every_phase_is_done_once_and_before_the_next() {
        let counts: Vec<AtomicUsize> = (0..37).map(|_| AtomicUsize::new(0)).collect();
        let phases = 3000;
        with_threads(3, |team| {
            for phase in 0..phases {
                let tasks = 1 + phase % counts.len();
                team.each(tasks, &|task| {
                    if task % 5 == 0 {
                        // Whoever leads may be through with all others meanwhile.
                        std::thread::yield_now();
                    }
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                for (task, count) in counts.iter().enumerate() {
                    let expected = (0..=phase).filter(|p| 1 + p % counts.len() > task).count();
                    if phase % 100 == 0 {
                        assert_eq!(count.load(Ordering::Relaxed), expected, "task {task}");
                    }
                }
            }
        });
        let all: usize = counts.iter().map(|c| c.load(Ordering::Relaxed)).sum();
        let expected: usize = (0..phases).map(|p| 1 + p % counts.len()).sum();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_task_that_panics_beside_the_leader_is_told_by_it() {
        assert!(openmp().is_some(), "libtorch's OpenMP");
        let leader = std::thread::current().id();
        let met = AtomicBool::new(false);
        let outcome = std::panic::catch_unwind(|| {
            with_threads(2, |team| {
                team.each(2, &|_| {
                    if std::thread::current().id() != leader {
                        met.store(true, Ordering::Release);
                        panic!("as it should");
                    }
                    // The other task is left to the helper.
                    while !met.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                });
            });
        });
        assert!(outcome.is_err());
    }

    #[test]
    fn a_leader_that_panics_waits_for_its_helpers() {
        assert!(openmp().is_some(), "libtorch's OpenMP");
        let (begun, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        let leader = std::thread::current().id();
        let outcome = std::panic::catch_unwind(|| {
            with_threads(2, |team| {
                team.each(2, &|_| {
                    if std::thread::current().id() != leader {
                        begun.store(true, Ordering::Release);
                        std::thread::sleep(std::time::Duration::from_millis(30));
                        ended.store(true, Ordering::Release);
                        return;
                    }
                    while !begun.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                    panic!("as it should");
                });
            });
        });
        assert!(outcome.is_err() && ended.load(Ordering::Acquire));
    }
}
