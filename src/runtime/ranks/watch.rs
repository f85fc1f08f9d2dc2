//! Who is still there: a heart-beat of every rank in the store, beside the work.
//!
//! Rank 0 listens to all others; they listen to rank 0, which holds the store, and to what it says of the rest. So the
//! traffic grows with the number of ranks and not with its square. A rank that is killed also closes its connections, so
//! that the next communication fails at once; the heart-beat then tells who it was. A rank that only computes for long
//! goes on beating: that is a thread of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::native::Store;
use super::place::{Place, patience};
use super::{BYSTANDER_CODE, RankError, pause};

/// Between two beats.
const BEAT: Duration = Duration::from_millis(500);
/// Silence after which a rank is lost once communication has failed.
const SHORT: Duration = Duration::from_secs(5);
/// How long the work may take to notice a loss by itself before the process is ended.
const GRACE: Duration = Duration::from_secs(20);
const LOST: &str = "ranks/lost";
const FAILED: &str = "ranks/failed";
const FAILURES: &str = "ranks/failures";
const ALARM: &str = "ranks/alarm";
const TOLD: &str = "ranks/told";

fn beat_of(rank: usize) -> String {
    format!("ranks/beat/{rank}")
}

/// What the watch has found.
#[derive(Debug, Default)]
struct Found {
    error: Option<RankError>,
    /// Communication failed: be quick.
    alarm: bool,
    /// The run is over.
    parted: bool,
}

/// The watch of one rank.
#[derive(Debug)]
pub struct Watch {
    store: Arc<Store>,
    found: Arc<Mutex<Found>>,
    rank: usize,
    size: usize,
}

impl Watch {
    /// Begin to beat and to listen.
    pub fn start(
        open: impl Fn(bool) -> Result<Store, String>,
        store: &Arc<Store>,
        place: &Place,
    ) -> Result<Self, String> {
        store.add("ranks/arrived", 1)?;
        let found = Arc::new(Mutex::new(Found::default()));
        // Connections of its own: the store answers one request of a connection at a time.
        let own = open(false)?;
        let (rank, size) = (place.rank, place.size);
        let listener = Listener {
            store: own,
            found: Arc::clone(&found),
            rank,
            size,
            silence: patience("ATP_RANK_SILENCE", 30),
            heard: vec![(-1, Instant::now()); size],
        };
        std::thread::Builder::new()
            .name("ranks".into())
            .spawn(move || listener.run())
            .map_err(|e| e.to_string())?;
        Ok(Self {
            store: Arc::clone(store),
            found,
            rank,
            size,
        })
    }

    /// How many ranks have come.
    pub fn arrived(&self) -> Result<usize, String> {
        Ok(self.store.add("ranks/arrived", 0)? as usize)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a rank is gone.
    pub fn loss(&self) -> bool {
        self.found().error.is_some()
    }

    /// Communication failed with this message: why, once it is known.
    pub fn explain(&self, problem: String) -> RankError {
        self.found().alarm = true;
        let begin = Instant::now();
        while begin.elapsed() < SHORT * 3 {
            if let Some(error) = self.found().error.clone() {
                self.wait_for_the_told(&error);
                return error;
            }
            pause();
        }
        RankError::Communication(problem)
    }

    /// Rank 0 takes the store with it: the others are to read there first who was lost.
    fn wait_for_the_told(&self, error: &RankError) {
        let begin = Instant::now();
        let told = || self.store.add(TOLD, 0).unwrap_or(i64::MAX);
        while self.rank == 0
            && matches!(error, RankError::Lost { .. })
            && begin.elapsed() < Duration::from_secs(3)
            && told() < self.size as i64 - 2
        {
            pause();
        }
    }

    /// Say that this rank failed; false where another was first.
    pub fn fail(&self, message: &str) -> bool {
        let said = || -> Result<bool, String> {
            if self.store.add(FAILURES, 1)? > 1 {
                return Ok(false);
            }
            let note = format!("{}\n{message}", self.rank);
            self.store.set(FAILED, note.as_bytes())?;
            // Rank 0 takes the store with it: the others are to read the note first.
            let begin = Instant::now();
            while self.rank == 0
                && begin.elapsed() < Duration::from_secs(3)
                && self.store.add(TOLD, 0)? < self.size as i64 - 1
            {
                pause();
            }
            Ok(true)
        };
        self.found().parted = true;
        said().unwrap_or(true)
    }

    /// The run is over; silence means nothing from here on.
    pub fn part(&self) {
        self.found().parted = true;
    }
}

/// The thread.
struct Listener {
    store: Store,
    found: Arc<Mutex<Found>>,
    rank: usize,
    size: usize,
    silence: Duration,
    /// Last beat of each rank, and when it was heard.
    heard: Vec<(i64, Instant)>,
}

impl Listener {
    fn run(mut self) {
        loop {
            {
                let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                if found.parted {
                    return;
                }
            }
            let error = match self.listen() {
                Ok(None) => {
                    std::thread::sleep(BEAT);
                    continue;
                }
                Ok(Some(error)) => error,
                Err(problem) => {
                    tracing::debug!("the store does not answer: {problem}");
                    self.lost(0, "it does not answer any more".into())
                }
            };
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if found.parted {
                return;
            }
            found.error = Some(error.clone());
            drop(found);
            return self.see_to_the_end(&error);
        }
    }

    fn lost(&self, rank: usize, how: String) -> RankError {
        let size = self.size;
        RankError::Lost { rank, size, how }
    }

    /// Beat, and hear the others: what is wrong, if anything.
    fn listen(&mut self) -> Result<Option<RankError>, String> {
        self.store.add(&beat_of(self.rank), 1)?;
        let alarm = self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .alarm;
        if alarm {
            self.store.set(ALARM, b"1")?;
        }
        if self.store.has(FAILED)? {
            let note = String::from_utf8_lossy(&self.store.get(FAILED)?).into_owned();
            let (rank, message) = note.split_once('\n').unwrap_or(("?", &note));
            let rank = rank.parse().unwrap_or(0);
            if rank != self.rank {
                self.store.add(TOLD, 1)?;
                let message = message.to_owned();
                return Ok(Some(RankError::Failed { rank, message }));
            }
        }
        if self.rank != 0 && self.store.has(LOST)? {
            let note = String::from_utf8_lossy(&self.store.get(LOST)?).into_owned();
            let (rank, how) = note.split_once('\n').unwrap_or(("0", &note));
            self.store.add(TOLD, 1)?;
            return Ok(Some(self.lost(rank.parse().unwrap_or(0), how.to_owned())));
        }
        let patience = match alarm || self.store.has(ALARM)? {
            true => SHORT,
            false => self.silence,
        };
        let others = if self.rank == 0 { 1..self.size } else { 0..1 };
        for other in others {
            let beat = self.store.add(&beat_of(other), 0)?;
            let (last, at) = &mut self.heard[other];
            if *last != beat {
                (*last, *at) = (beat, Instant::now());
            } else if at.elapsed() > patience {
                let how = format!("not heard of for {} s", at.elapsed().as_secs());
                if self.rank == 0 {
                    self.store.set(LOST, format!("{other}\n{how}").as_bytes())?;
                }
                return Ok(Some(self.lost(other, how)));
            }
        }
        Ok(None)
    }

    /// The work may be stuck where it cannot notice: give it some time, then end the process.
    fn see_to_the_end(&self, error: &RankError) {
        let begin = Instant::now();
        while begin.elapsed() < GRACE {
            std::thread::sleep(BEAT);
            if self
                .found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .parted
            {
                return;
            }
        }
        if !error.is_told_elsewhere() && self.speaks(error) {
            eprintln!("error: {error}");
        }
        std::process::exit(BYSTANDER_CODE);
    }

    fn speaks(&self, error: &RankError) -> bool {
        error.is_told_by(self.rank)
    }
}

impl RankError {
    /// Whether this rank is the one to tell of it: the first that is left.
    pub fn is_told_by(&self, rank: usize) -> bool {
        match self {
            Self::Lost { rank: 0, .. } => rank == 1,
            // All see it at the same point.
            Self::Lost { .. } | Self::Disagree(_) => rank == 0,
            _ => true,
        }
    }
}
