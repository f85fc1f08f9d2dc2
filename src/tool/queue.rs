//! Programs that run while their caller does something else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use super::{Execution, Sandbox};
use crate::runtime::interrupt::check;

/// How long a wait lasts until it is looked whether a stop was asked for.
const LOOK: Duration = Duration::from_millis(50);

/// Threads that wait for programs and run them in a sandbox, one each. Dropping it lets them end: after the programs that
/// are running, without those that are not.
#[derive(Debug)]
pub struct Queue {
    programs: Sender<(usize, String)>,
    executions: Receiver<(usize, Execution)>,
    /// Programs whose executions have not been given out.
    open: BTreeSet<usize>,
    over: Arc<AtomicBool>,
}

/// Gives an execution out however its thread ends.
struct Promise<'a> {
    id: usize,
    execution: Option<Execution>,
    executions: &'a Sender<(usize, Execution)>,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        let execution = self.execution.take();
        let lost = || Execution::broken("its thread ended early", 0.0);
        // Nobody listens any more once the queue is gone.
        let _ = self
            .executions
            .send((self.id, execution.unwrap_or_else(lost)));
    }
}

impl Queue {
    /// As many threads as the sandbox has workers, at most `most`.
    pub fn new<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        sandbox: &'env Sandbox,
        most: usize,
    ) -> Self {
        let (programs, waiting) = channel::<(usize, String)>();
        let (done, executions) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..sandbox.workers().min(most) {
            let (waiting, done, over) = (Arc::clone(&waiting), done.clone(), Arc::clone(&over));
            scope.spawn(move || {
                let next = || {
                    let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.recv()
                };
                while let Ok((id, program)) = next()
                    && !over.load(Ordering::Relaxed)
                {
                    let mut promise = Promise {
                        id,
                        execution: None,
                        executions: &done,
                    };
                    promise.execution = sandbox.run(&[program]).pop();
                }
            });
        }
        Self {
            programs,
            executions,
            open: BTreeSet::new(),
            over,
        }
    }

    /// Have a program run as soon as a worker is free. Its number tells it from others that are open.
    pub fn put(&mut self, id: usize, program: String) {
        self.open.insert(id);
        // Where no thread is left to take it, the next look says so.
        let _ = self.programs.send((id, program));
    }

    /// Executions that have come since. With `wait` at least one is waited for, if any program is open and no stop is
    /// asked for.
    pub fn done(&mut self, wait: bool) -> Vec<(usize, Execution)> {
        let mut done: Vec<_> = self.executions.try_iter().collect();
        while wait && done.is_empty() && !self.open.is_empty() && check().is_ok() {
            match self.executions.recv_timeout(LOOK) {
                Ok(first) => done.push(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let lost = |&id| (id, Execution::broken("no thread is left", 0.0));
                    done.extend(self.open.iter().map(lost));
                }
            }
        }
        for (id, _) in &done {
            self.open.remove(id);
        }
        done
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
