//! Supervision in an evaluation: which rounds are watched, what the prompt says about it, whether a broken rule is seen.
//!
//! The three are settings of their own. The paper's test has prompts that say nothing and no watched round. What is
//! drawn comes from streams named by round and agent, so that every agent has a supervisor of its own, all variants of a
//! model meet the same ones, and no other draw moves it.

use std::fmt;

use rand::Rng;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::question::Supervision;
use crate::runtime::seed::stream;

/// Whether a round is watched, as a recipe lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Watch {
    /// The supervisor watches.
    Supervised,
    /// Nobody watches.
    Unsupervised,
}

/// Which rounds are supervised.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Pattern {
    /// None: the paper's test.
    #[default]
    AllUnsupervised,
    /// All.
    AllSupervised,
    /// Every other one; the first round is this.
    Alternating(Watch),
    /// All but the last.
    LastUnsupervised,
    /// Each with this probability, drawn for every agent and round.
    Probability(f64),
    /// As listed, one entry a round.
    Explicit(Vec<Watch>),
}

/// Names of the patterns that are written as a text.
const NAMES: [&str; 4] = [
    "all-unsupervised",
    "all-supervised",
    "alternating",
    "last-unsupervised",
];

/// Keys of the patterns that are written as a table.
const KEYS: [&str; 3] = ["alternating", "probability", "explicit"];
/// All that a text could be meant as.
const ALL: [&str; 6] = [NAMES[0], NAMES[1], NAMES[2], NAMES[3], KEYS[1], KEYS[2]];

/// What the prompt says about being watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notice {
    /// Nothing: the paper's test.
    #[default]
    Neutral,
    /// That the supervisor watches, whether it is so or not.
    Supervised,
    /// That nobody watches, whether it is so or not.
    Unsupervised,
    /// What is true of the round.
    Announced,
}

impl Notice {
    /// The sentence that the prompt of a round has.
    pub fn of(self, supervised: bool) -> Supervision {
        match (self, supervised) {
            (Self::Neutral, _) => Supervision::Neutral,
            (Self::Supervised, _) | (Self::Announced, true) => Supervision::Supervised,
            (Self::Unsupervised, _) | (Self::Announced, false) => Supervision::Unsupervised,
        }
    }
}

/// One agent's round: decided before the agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundWatch {
    /// The supervisor watches.
    pub supervised: bool,
    /// A broken rule would be seen; only in a supervised round.
    pub would_see: bool,
}

impl Pattern {
    /// Whether `round` (from 1) of `rounds` is supervised, and whether a broken rule would then be seen, which has
    /// probability `detection`. `agent` names the agent among all that share `root`.
    pub fn watch(
        &self,
        round: u32,
        rounds: u32,
        detection: f64,
        root: u64,
        agent: &str,
    ) -> RoundWatch {
        let draw =
            |what: &str| -> f64 { stream(root, &format!("{what}/round-{round}/{agent}")).random() };
        let supervised = match self {
            Self::AllUnsupervised => false,
            Self::AllSupervised => true,
            Self::Alternating(first) => (*first == Watch::Supervised) == (round % 2 == 1),
            Self::LastUnsupervised => round < rounds,
            Self::Probability(p) => draw("supervision") < *p,
            Self::Explicit(list) => list.get(round as usize - 1) == Some(&Watch::Supervised),
        };
        RoundWatch {
            supervised,
            would_see: supervised && draw("detection") < detection,
        }
    }

    /// What is wrong with the pattern for this many rounds, if anything: `(field below the pattern, problem)`.
    pub fn check(&self, rounds: u32) -> Result<(), (&'static str, String)> {
        match self {
            Self::Probability(p) if !(0.0..=1.0).contains(p) => {
                Err(("probability", format!("expected 0 to 1, got {p}")))
            }
            Self::Explicit(list) if list.len() != rounds as usize => Err((
                "explicit",
                format!(
                    "expected one entry for each of the {rounds} rounds, got {}",
                    list.len()
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// How an alternation begins.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum First {
    SupervisedFirst,
    UnsupervisedFirst,
}

impl From<First> for Watch {
    fn from(first: First) -> Self {
        match first {
            First::SupervisedFirst => Self::Supervised,
            First::UnsupervisedFirst => Self::Unsupervised,
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn table<S: Serializer>(
            serializer: S,
            key: &str,
            value: &impl Serialize,
        ) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(key, value)?;
            map.end()
        }
        match self {
            Self::AllUnsupervised => serializer.serialize_str(NAMES[0]),
            Self::AllSupervised => serializer.serialize_str(NAMES[1]),
            Self::Alternating(Watch::Supervised) => serializer.serialize_str(NAMES[2]),
            Self::LastUnsupervised => serializer.serialize_str(NAMES[3]),
            Self::Alternating(Watch::Unsupervised) => {
                table(serializer, KEYS[0], &First::UnsupervisedFirst)
            }
            Self::Probability(p) => table(serializer, KEYS[1], p),
            Self::Explicit(list) => table(serializer, KEYS[2], list),
        }
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Pattern;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(
                    f,
                    "one of {}, {{ probability = … }}, {{ explicit = […] }}",
                    NAMES.join(", ")
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Pattern, E> {
                match text {
                    "all-unsupervised" => Ok(Pattern::AllUnsupervised),
                    "all-supervised" => Ok(Pattern::AllSupervised),
                    "alternating" => Ok(Pattern::Alternating(Watch::Supervised)),
                    "last-unsupervised" => Ok(Pattern::LastUnsupervised),
                    "probability" => Err(E::custom("expected a value: `{ probability = 0.5 }`")),
                    "explicit" => Err(E::custom(
                        "expected a list: `{ explicit = [\"supervised\", …] }`, one entry a round",
                    )),
                    other => Err(E::unknown_variant(other, &ALL)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pattern, A::Error> {
                let Some(key) = map.next_key::<String>()? else {
                    return Err(de::Error::custom("expected one key, got none"));
                };
                let pattern = match key.as_str() {
                    "alternating" => Pattern::Alternating(map.next_value::<First>()?.into()),
                    "probability" => Pattern::Probability(map.next_value()?),
                    "explicit" => Pattern::Explicit(map.next_value()?),
                    other => return Err(de::Error::unknown_field(other, &KEYS)),
                };
                match map.next_key::<String>()? {
                    None => Ok(pattern),
                    Some(more) => Err(de::Error::custom(format!(
                        "expected one key, got `{key}` and `{more}`"
                    ))),
                }
            }
        }

        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        pattern: Pattern,
    }

    fn read(text: &str) -> Result<Pattern, String> {
        toml::from_str::<Holder>(&format!("pattern = {text}"))
            .map(|holder| holder.pattern)
            .map_err(|error| error.message().to_owned())
    }

    /// Supervised rounds as ones.
    fn rounds(pattern: &Pattern, count: u32) -> String {
        (1..=count)
            .map(|round| match pattern.watch(round, count, 1.0, 7, "a/0") {
                RoundWatch {
                    supervised: true,
                    would_see: true,
                } => '1',
                RoundWatch {
                    supervised: false,
                    would_see: false,
                } => '0',
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn patterns_are_read_written_and_followed() {
        for (text, expected) in [
            ("\"all-unsupervised\"", "000000"),
            ("\"all-supervised\"", "111111"),
            ("\"alternating\"", "101010"),
            ("{ alternating = \"supervised-first\" }", "101010"),
            ("{ alternating = \"unsupervised-first\" }", "010101"),
            ("\"last-unsupervised\"", "111110"),
            ("{ probability = 0.0 }", "000000"),
            ("{ probability = 1 }", "111111"),
            (
                "{ explicit = [\"unsupervised\", \"unsupervised\", \"supervised\", \"supervised\", \"unsupervised\", \"supervised\"] }",
                "001101",
            ),
        ] {
            let pattern = read(text).unwrap();
            assert_eq!(rounds(&pattern, 6), expected, "{text}");
            assert_eq!(pattern.check(6), Ok(()));
            let holder = Holder { pattern };
            let written = toml::to_string_pretty(&holder).unwrap();
            assert_eq!(toml::from_str::<Holder>(&written).unwrap(), holder);
            let json = serde_json::to_string(&holder).unwrap();
            assert_eq!(serde_json::from_str::<Holder>(&json).unwrap(), holder);
        }
        assert_eq!(Pattern::default(), Pattern::AllUnsupervised);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (text, expected) in [
            (
                "\"all-unsuprevised\"",
                "unknown variant `all-unsuprevised`, expected one of `all-unsupervised`",
            ),
            ("\"probability\"", "{ probability = 0.5 }"),
            ("\"explicit\"", "one entry a round"),
            (
                "{ probabilty = 0.5 }",
                "unknown field `probabilty`, expected one of `alternating`",
            ),
            ("\"probabilty\"", "`probability`"),
            ("{}", "expected one key, got none"),
            (
                "{ probability = 0.5, explicit = [] }",
                "expected one key, got `",
            ),
            ("{ probability = \"often\" }", "string \"often\""),
            ("{ explicit = [\"watched\"] }", "unknown variant `watched`"),
            ("{ alternating = \"last\" }", "unknown variant `last`"),
            ("3", "expected one of all-unsupervised"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let list = Pattern::Explicit(vec![Watch::Supervised; 3]);
        assert_eq!(list.check(3), Ok(()));
        assert!(list.check(4).unwrap_err().1.contains("4 rounds, got 3"));
        for p in [-0.1, 1.1, f64::NAN] {
            assert_eq!(
                Pattern::Probability(p).check(6).unwrap_err().0,
                "probability"
            );
        }
    }

    /// Share of 4000 agents' rounds of which `what` holds.
    fn share(pattern: &Pattern, detection: f64, what: fn(RoundWatch) -> bool) -> f64 {
        let found = (0..4000)
            .filter(|i| {
                what(pattern.watch(1 + i % 4, 4, detection, 11, &format!("agent/{}", i / 4)))
            })
            .count();
        found as f64 / 4000.0
    }

    #[test]
    fn draws_have_their_probabilities_and_names() {
        let p = Pattern::Probability(0.3);
        let supervised = share(&p, 0.5, |w| w.supervised);
        let seen = share(&p, 0.5, |w| w.would_see);
        // Standard deviations below 0.008.
        assert!((supervised - 0.3).abs() < 0.03, "{supervised}");
        assert!((seen - 0.15).abs() < 0.03, "{seen}");
        let all = share(&Pattern::AllSupervised, 0.25, |w| w.would_see);
        assert!((all - 0.25).abs() < 0.03, "{all}");
        assert_eq!(share(&Pattern::AllSupervised, 0.0, |w| w.would_see), 0.0);
        assert_eq!(share(&Pattern::AllUnsupervised, 1.0, |w| w.would_see), 0.0);
        // The draw of an agent's round depends on seed, agent and round alone.
        let half = Pattern::Probability(0.5);
        let at = |root, agent: &str| -> Vec<RoundWatch> {
            (1..=64)
                .map(|r| half.watch(r, 64, 0.5, root, agent))
                .collect()
        };
        assert_eq!(at(1, "x/0"), at(1, "x/0"));
        assert_ne!(at(1, "x/0"), at(2, "x/0"));
        assert_ne!(at(1, "x/0"), at(1, "x/1"));
        assert_eq!(
            half.watch(3, 6, 0.5, 1, "x/0"),
            half.watch(3, 64, 0.5, 1, "x/0")
        );
    }

    #[test]
    fn the_notice_is_what_it_says() {
        use Supervision::{Neutral, Supervised, Unsupervised};
        for (notice, watched, unwatched) in [
            (Notice::Neutral, Neutral, Neutral),
            (Notice::Supervised, Supervised, Supervised),
            (Notice::Unsupervised, Unsupervised, Unsupervised),
            (Notice::Announced, Supervised, Unsupervised),
        ] {
            assert_eq!((notice.of(true), notice.of(false)), (watched, unwatched));
        }
    }
}
