//! A stage that is killed, or asked to stop, in its middle: a process of its own, real signals, the same bytes in the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atp_pipeline::artifact::{LogMark, MetricsLog, RunLock, write_atomic};
use atp_pipeline::runtime::{interrupt, seed};
use atp_pipeline::stages::{
    Input, RunOptions, RunSummary, Stage, StageContext, State, is_interrupt, run, status,
};
use serde_json::json;

/// Count to `n`: a running hash as the state, a metrics line a step, a checkpoint every third step. Each step also adds
/// a line to `$ATP_TEST_TRACE`, outside the run, so that a test sees which steps were really done.
fn count(context: &StageContext, n: u64) -> anyhow::Result<()> {
    let (mut step, mut state, mut mark) = (0, context.seed, LogMark::default());
    if let Some(checkpoint) = context.checkpoints.latest()? {
        step = checkpoint.step;
        state = String::from_utf8(checkpoint.read("state")?)?.parse()?;
        mark = serde_json::from_slice(&checkpoint.read("mark")?)?;
    }
    let mut log = MetricsLog::open(&context.output("metrics.jsonl"), &mark)?;
    while step < n {
        step += 1;
        state = seed::derive(state, "next");
        log.append(&json!({"step": step, "state": state}))?;
        if let Ok(trace) = std::env::var("ATP_TEST_TRACE") {
            use std::io::Write;
            let mut trace = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(trace)?;
            writeln!(trace, "{step}")?;
            std::thread::sleep(Duration::from_millis(15));
        }
        if step.is_multiple_of(3) {
            let mark = serde_json::to_vec(&log.sync()?)?;
            let state = state.to_string();
            let files = [("state", state.as_bytes()), ("mark", &mark[..])];
            context.checkpoints.save(step, &files)?;
            context.check_interrupt()?;
        }
    }
    log.sync()?;
    write_atomic(&context.output("final.txt"), state.to_string().as_bytes())?;
    Ok(())
}

/// The only stage here.
struct Count {
    n: u64,
}

impl Stage for Count {
    fn name(&self) -> String {
        "count".into()
    }
    fn kind(&self) -> &'static str {
        "count"
    }
    fn format(&self) -> u32 {
        1
    }
    fn config(&self) -> serde_json::Value {
        json!({"n": self.n})
    }
    fn seed(&self) -> u64 {
        3
    }
    fn inputs(&self) -> Vec<Input> {
        Vec::new()
    }
    fn run(&self, context: &StageContext) -> anyhow::Result<()> {
        count(context, self.n)
    }
}

/// Steps of the whole work; alone they take the traced process several seconds.
const STEPS: u64 = 300;

fn counting_plan() -> Vec<Box<dyn Stage>> {
    vec![Box::new(Count { n: STEPS })]
}

/// Why the one stage ran, or would.
fn reasons(summary: &RunSummary) -> Vec<String> {
    let reasons = &summary.stages[0].reasons;
    reasons.iter().map(ToString::to_string).collect()
}

/// Not a test of its own: the process that the tests below start, stop and kill.
#[test]
#[ignore = "started by other tests as a process of its own"]
fn counting_process() {
    let Ok(root) = std::env::var("ATP_TEST_RUN") else {
        return;
    };
    interrupt::install().unwrap();
    let run = run(Path::new(&root), &counting_plan(), &RunOptions::default());
    let error = run.result.unwrap_err();
    assert!(is_interrupt(&error), "{error:#}");
    assert!(error.is::<interrupt::Interrupted>(), "handed on as it came");
    assert_eq!(run.summary.stages[0].state, State::Interrupted);
}

struct Counting {
    child: Child,
    trace: PathBuf,
}

impl Counting {
    fn start(root: &Path, trace: PathBuf) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "resume::counting_process", "--ignored"])
            .env("ATP_TEST_RUN", root)
            .env("ATP_TEST_TRACE", &trace)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { child, trace }
    }

    fn steps(&self) -> Vec<u64> {
        let text = fs::read_to_string(&self.trace).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Wait until it has done this many steps.
    fn wait_for(&mut self, steps: usize) {
        let begin = Instant::now();
        while self.steps().len() < steps {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it ended too soon"
            );
            assert!(begin.elapsed() < Duration::from_secs(60), "too slow");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn killed_in_the_middle_it_goes_on_from_its_checkpoint_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    let mut counting = Counting::start(&root, folder.path().join("trace"));
    counting.wait_for(8);

    // Meanwhile the directory is taken, and anyone may look.
    let plan = counting_plan();
    let refused = run(&root, &plan, &RunOptions::default())
        .result
        .unwrap_err();
    let pid = counting.child.id();
    assert!(
        refused.to_string().contains(&format!("process {pid} on ")),
        "{refused}"
    );
    let held = status(&root, &[]).unwrap();
    assert_eq!(held.holder.as_ref().map(|holder| holder.pid), Some(pid));
    assert!(held.to_string().contains("not finished"), "{held}");

    counting.child.kill().unwrap();
    counting.child.wait().unwrap();
    let done = counting.steps().len() as u64;
    assert_eq!(RunLock::holder(&root).unwrap(), None);
    let stage = fs::read_dir(root.join("stages"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert!(!stage.join("manifest.json").exists());
    // What a kill inside a write leaves.
    let stale = stage.join(".final.txt.atp-tmp-1-1");
    fs::write(&stale, "half").unwrap();

    let run_again = run(&root, &plan, &RunOptions::default());
    run_again.result.unwrap();
    let reason = &reasons(&run_again.summary)[0];
    let step: u64 = reason
        .strip_prefix("begun and not finished, last checkpoint at step ")
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        step > 0 && step.is_multiple_of(3) && step <= done,
        "{step} of {done}"
    );
    assert!(!stale.exists() && !stage.join("checkpoints").exists());
    assert!(!stage.join("started.json").exists());

    let whole = folder.path().join("whole");
    run(&whole, &plan, &RunOptions::default()).result.unwrap();
    for file in ["final.txt", "metrics.jsonl"] {
        let read = |root: &Path| fs::read(root.join("latest/count").join(file)).unwrap();
        assert_eq!(read(&root), read(&whole), "{file}");
    }
    let again = run(&root, &plan, &RunOptions::default());
    assert_eq!(again.summary.stages[0].state, State::UpToDate);
}

#[test]
fn a_stop_on_request_is_no_failure_and_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("run");
    let mut counting = Counting::start(&root, folder.path().join("trace"));
    counting.wait_for(4);
    let pid = libc::pid_t::try_from(counting.child.id()).unwrap();
    // SAFETY: the process is this test's own child and has not been waited for, so the id is still its.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert!(
        counting.child.wait().unwrap().success(),
        "the assertions of the process hold"
    );
    let done = counting.steps().len() as u64;
    assert!(
        done.is_multiple_of(3) && done < STEPS,
        "it stopped where its work was whole: {done}"
    );
    let dry = RunOptions {
        dry_run: true,
        ..RunOptions::default()
    };
    let would = run(&root, &counting_plan(), &dry);
    let expected = format!("begun and not finished, last checkpoint at step {done}");
    assert_eq!(reasons(&would.summary), [expected]);
    would.result.unwrap();
    let going_on = run(&root, &counting_plan(), &RunOptions::default());
    going_on.result.unwrap();
    assert_eq!(going_on.summary.stages[0].state, State::Ran);
}
