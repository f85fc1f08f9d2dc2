//! The pool of workers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Instant;

use super::capabilities::{Capabilities, Namespaces};
use super::program::{Lost, Request};
use super::python::Python;
use super::scratch::Scratch;
use super::worker::Worker;
use super::{Execution, SandboxConfig, SandboxError, Status};

/// Runs programs. Dropping it ends its workers and removes its folder.
pub struct Sandbox {
    config: SandboxConfig,
    python: Python,
    capabilities: Capabilities,
    confined: bool,
    /// Each started when it is first needed, and again when it was lost. Before `scratch`, to be dropped before it.
    workers: Vec<Mutex<Option<Worker>>>,
    scratch: Scratch,
}

impl Sandbox {
    /// Examine the machine, find Python and start the first worker.
    ///
    /// # Errors
    /// Settings out of range, a kernel that cannot confine (unless `allow_unsandboxed`), no usable Python, or a worker
    /// that does not start.
    pub fn new(config: &SandboxConfig) -> Result<Self, SandboxError> {
        config.check()?;
        let mut capabilities = Capabilities::of_kernel();
        let missing = capabilities.missing();
        let confined = missing.is_none();
        if let Some(missing) = missing {
            if !config.allow_unsandboxed {
                return Err(SandboxError::NotConfined { missing });
            }
            static WARNED: OnceLock<()> = OnceLock::new();
            WARNED.get_or_init(|| tracing::warn!("{missing}: programs run with your own rights"));
        }
        let python = Python::find(config)?;
        let scratch = Scratch::new().map_err(SandboxError::io("make a scratch folder"))?;
        if !config.namespaces {
            capabilities.namespaces = Namespaces::default();
        }
        let first = Worker::start(&python, &scratch, capabilities.namespaces, confined)?;
        capabilities.packages.clone_from(&first.packages);
        let mut workers = vec![Mutex::new(Some(first))];
        workers.resize_with(config.worker_count(), || Mutex::new(None));
        Ok(Self {
            config: config.clone(),
            python,
            capabilities,
            confined,
            workers,
            scratch,
        })
    }

    /// What is enforced, and what programs can import.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    /// How many programs run at a time.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Run programs, as many at a time as there are workers; the results are in the programs' order.
    ///
    /// No program's fault is an error here: it is in its [`Execution`], the sandbox's own faults included.
    pub fn run<S: AsRef<str> + Sync>(&self, programs: &[S]) -> Vec<Execution> {
        if let [program] = programs {
            return vec![self.run_one(program.as_ref(), 0)];
        }
        let next = AtomicUsize::new(0);
        let results: Vec<_> = programs.iter().map(|_| OnceLock::new()).collect();
        std::thread::scope(|scope| {
            for preferred in 0..self.workers.len().min(programs.len()) {
                let (next, results) = (&next, &results);
                scope.spawn(move || {
                    while let index = next.fetch_add(1, Ordering::Relaxed)
                        && let Some(program) = programs.get(index)
                    {
                        let execution = self.run_one(program.as_ref(), preferred);
                        let _ = results[index].set(execution);
                    }
                });
            }
        });
        results
            .into_iter()
            .map(|result| {
                let result = result.into_inner();
                result.unwrap_or_else(|| Execution::broken("its thread ended early", 0.0))
            })
            .collect()
    }

    /// A worker that is free, the preferred one first; waits for that one if none is.
    fn worker(&self, preferred: usize) -> MutexGuard<'_, Option<Worker>> {
        let count = self.workers.len();
        for offset in 0..count {
            match self.workers[(preferred + offset) % count].try_lock() {
                Ok(worker) => return worker,
                Err(TryLockError::Poisoned(worker)) => return worker.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        let waited = self.workers[preferred % count].lock();
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn run_one(&self, source: &str, preferred: usize) -> Execution {
        let mut slot = self.worker(preferred);
        let start = Instant::now();
        let broken = |reason: &dyn std::fmt::Display| {
            Execution::broken(reason, start.elapsed().as_secs_f64())
        };
        let folder = match self.scratch.make() {
            Ok(folder) => folder,
            Err(error) => return broken(&format!("cannot make a scratch folder: {error}")),
        };
        let request = Request {
            config: &self.config,
            source,
            folder: &folder,
            readable: &self.python.readable,
            confined: self.confined,
        };
        // A worker that was lost between programs is replaced once.
        let mut execution = None;
        for _ in 0..2 {
            let worker = match slot.take() {
                Some(worker) => worker,
                None => match self.start_worker() {
                    Ok(worker) => worker,
                    Err(error) => {
                        execution = Some(broken(&error));
                        break;
                    }
                },
            };
            match request.run(&worker) {
                Ok(done) => {
                    *slot = Some(worker);
                    execution = Some(done);
                    break;
                }
                Err(Lost::Before(error)) => {
                    execution = Some(broken(&format!("the worker was gone: {error}")));
                }
                Err(Lost::During(error)) => {
                    execution = Some(Execution {
                        status: Status::Lost,
                        ..broken(&format!("the worker was lost: {error}"))
                    });
                    break;
                }
            }
        }
        // Nothing runs in the folder any more: the child has ended, or was dropped together with its worker.
        if let Err(error) = self.scratch.remove(folder) {
            tracing::warn!("a scratch folder could not be removed: {error}");
        }
        execution.unwrap_or_else(|| broken(&"no worker"))
    }

    fn start_worker(&self) -> Result<Worker, SandboxError> {
        let namespaces = self.capabilities.namespaces;
        Worker::start(&self.python, &self.scratch, namespaces, self.confined)
    }
}
