//! Which rank this process is, from what its launcher set: torchrun's variables, or those of a step that `srun` started.

use std::time::Duration;

use super::RankError;

/// This rank, as far as the environment tells: 0 where it is nobody's.
pub fn rank() -> usize {
    Place::from_environment()
        .ok()
        .flatten()
        .map_or(0, |place| place.rank)
}

/// This rank's place among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Which of those on this machine, from 0.
    pub local_rank: usize,
    /// How many are on this machine.
    pub local_size: usize,
    /// Where rank 0 is.
    pub address: String,
    /// Where it listens.
    pub port: u16,
    /// A socket bound to that port, inherited by rank 0 from [`super::launch`].
    pub listening: Option<i32>,
}

/// Seconds from a variable.
pub(super) fn patience(variable: &str, default: u64) -> Duration {
    let given = std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(default).max(1))
}

impl Place {
    /// From the environment; none where this process is nobody's rank.
    ///
    /// # Errors
    /// Variables that are there only in part or do not fit together.
    pub fn from_environment() -> Result<Option<Self>, RankError> {
        Self::from(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// From named variables.
    fn from(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, RankError> {
        let number = |name: &str| -> Result<Option<usize>, RankError> {
            let Some(text) = variable(name) else {
                return Ok(None);
            };
            let wrong =
                |_| RankError::Place(format!("{name}: expected a whole number, got `{text}`"));
            text.parse().map(Some).map_err(wrong)
        };
        let place = match (number("RANK")?, number("WORLD_SIZE")?) {
            (Some(rank), Some(size)) => Self::from_torchrun(rank, size, variable, &number)?,
            (None, None) => match Self::from_slurm(variable, &number)? {
                Some(place) => place,
                None => return Ok(None),
            },
            _ => {
                return Err(RankError::Place(
                    "RANK and WORLD_SIZE belong together; set both, as torchrun does, or neither"
                        .into(),
                ));
            }
        };
        let Self {
            rank,
            size,
            local_rank,
            local_size,
            ..
        } = place;
        if rank >= size || local_rank >= local_size || local_size > size {
            return Err(RankError::Place(format!(
                "rank {rank} of {size}, on its machine {local_rank} of {local_size}: these do not fit together"
            )));
        }
        Ok(Some(place))
    }

    fn from_torchrun(
        rank: usize,
        size: usize,
        variable: &dyn Fn(&str) -> Option<String>,
        number: &dyn Fn(&str) -> Result<Option<usize>, RankError>,
    ) -> Result<Self, RankError> {
        let address = variable("MASTER_ADDR");
        let port = number("MASTER_PORT")?.and_then(|port| u16::try_from(port).ok());
        let (address, port) = match (address, port) {
            (Some(address), Some(port)) => (address, port),
            _ if size == 1 => ("127.0.0.1".into(), 0),
            _ => {
                return Err(RankError::Place(
                    "RANK is set, but not MASTER_ADDR and MASTER_PORT, by which the ranks find each other".into(),
                ));
            }
        };
        let local_rank = number("LOCAL_RANK")?;
        Ok(Self {
            rank,
            size,
            local_rank: local_rank.unwrap_or(rank),
            local_size: number("LOCAL_WORLD_SIZE")?.unwrap_or(match local_rank {
                None => size,
                Some(local) => local + 1,
            }),
            address,
            port,
            listening: number(super::launch::LISTENING)?.map(|fd| fd as i32),
        })
    }

    /// Of a step alone: the script of a job has some of these variables as well and is nobody's rank.
    fn from_slurm(
        variable: &dyn Fn(&str) -> Option<String>,
        number: &dyn Fn(&str) -> Result<Option<usize>, RankError>,
    ) -> Result<Option<Self>, RankError> {
        let (Some(rank), Some(size)) = (number("SLURM_PROCID")?, number("SLURM_STEP_NUM_TASKS")?)
        else {
            return Ok(None);
        };
        let nodes = variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST"));
        let Some(address) = variable("MASTER_ADDR").or(nodes.as_deref().and_then(first_host))
        else {
            return Err(RankError::Place(
                "SLURM_PROCID is set, but neither MASTER_ADDR nor SLURM_JOB_NODELIST, which name rank 0's machine".into(),
            ));
        };
        let job = number("SLURM_JOB_ID")?.unwrap_or(0);
        let step = number("SLURM_STEP_ID")?.unwrap_or(0);
        let port = match number("MASTER_PORT")? {
            Some(port) => port,
            // Jobs that share a machine get ports of their own; below the range that systems hand out themselves.
            None => 12_000 + (job * 7 + step) % 20_000,
        };
        let local_rank = number("SLURM_LOCALID")?.unwrap_or(0);
        let on_this_node = variable("SLURM_STEP_TASKS_PER_NODE").and_then(|tasks| {
            let node = variable("SLURM_NODEID")?.parse().ok()?;
            tasks_on(&tasks, node)
        });
        Ok(Some(Self {
            rank,
            size,
            local_rank,
            local_size: on_this_node.unwrap_or(local_rank + 1).max(local_rank + 1),
            address,
            port: u16::try_from(port)
                .map_err(|_| RankError::Place(format!("MASTER_PORT: {port} is no port")))?,
            listening: None,
        }))
    }

    /// Whether all ranks are on this machine.
    pub fn is_local(&self) -> bool {
        self.local_size == self.size || ["127.0.0.1", "localhost"].contains(&self.address.as_str())
    }
}

/// The first host of a list in Slurm's notation: `node[03-05,9],login` begins with `node03`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find(['[', ',']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    if !rest.starts_with('[') {
        return Some(name.to_owned()).filter(|name| !name.is_empty());
    }
    let inner = &rest[1..rest.find(']')?];
    let first = inner.split([',', '-']).next()?;
    // What stands behind the brackets belongs to every name.
    let behind = &rest[inner.len() + 2..];
    let behind = &behind[..behind.find(',').unwrap_or(behind.len())];
    Some(format!("{name}{first}{behind}"))
}

/// Tasks on a node, from Slurm's notation: `2(x3),1` are four nodes.
fn tasks_on(list: &str, node: usize) -> Option<usize> {
    let mut before = 0;
    for part in list.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.trim_end_matches(')').parse().ok()?),
            None => (part, 1),
        };
        before += times;
        if node < before {
            return tasks.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>, RankError> {
        Place::from(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn launchers_say_who_is_who() {
        assert_eq!(place(&[]).unwrap(), None);
        // A job's script sees these, and is no rank.
        let script = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_JOB_ID", "7"),
        ];
        assert_eq!(place(&script).unwrap(), None);
        let torchrun = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("MASTER_ADDR", "node03"),
            ("MASTER_PORT", "29500"),
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "2"),
        ];
        let got = place(&torchrun).unwrap().unwrap();
        assert_eq!(
            (got.rank, got.size, got.local_rank, got.local_size),
            (5, 8, 1, 4)
        );
        assert_eq!((got.address.as_str(), got.port), ("node03", 29500));
        assert!(!got.is_local());
        let step = [
            ("SLURM_PROCID", "3"),
            ("SLURM_STEP_NUM_TASKS", "5"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_NODEID", "1"),
            ("SLURM_STEP_TASKS_PER_NODE", "2(x2),1"),
            ("SLURM_STEP_NODELIST", "gpu[07-09]"),
            ("SLURM_JOB_ID", "100"),
            ("SLURM_STEP_ID", "0"),
        ];
        let got = place(&step).unwrap().unwrap();
        assert_eq!(
            (got.rank, got.size, got.local_rank, got.local_size),
            (3, 5, 1, 2)
        );
        assert_eq!((got.address.as_str(), got.port), ("gpu07", 12_700));
    }

    #[test]
    fn what_does_not_fit_together_is_said() {
        for (variables, part) in [
            (&[("RANK", "1")][..], "belong together"),
            (&[("RANK", "1"), ("WORLD_SIZE", "2")], "MASTER_ADDR"),
            (
                &[("RANK", "x"), ("WORLD_SIZE", "2")],
                "expected a whole number, got `x`",
            ),
            (
                &[
                    ("RANK", "2"),
                    ("WORLD_SIZE", "2"),
                    ("MASTER_ADDR", "a"),
                    ("MASTER_PORT", "1"),
                ],
                "rank 2 of 2",
            ),
            (
                &[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")],
                "SLURM_JOB_NODELIST",
            ),
        ] {
            let text = place(variables).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn lists_of_hosts_are_read() {
        for (list, first) in [
            ("node7", "node7"),
            ("a,b", "a"),
            ("node[03-05,9],login", "node03"),
            ("rack[2,4]-gpu,x", "rack2-gpu"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first));
        }
        assert_eq!(first_host(""), None);
        assert_eq!(
            [0, 2, 3, 4].map(|node| tasks_on("2(x3),1", node)),
            [Some(2), Some(2), Some(1), None]
        );
    }
}
