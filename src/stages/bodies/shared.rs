//! What the stage bodies share: names, the machine, and one loaded model at a time.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tch::Device;

use crate::agent::endpoint::split_source;
use crate::agent::model::{Precision, describe, identity};
use crate::agent::{Endpoint, LoadedModel, ModelError, ModelSpec};
use crate::model::footprint::Footprint;
use crate::model::fused::PAGE;
use crate::model::{LoraConfig, ModelConfig};
use crate::recipe::Recipe;
use crate::recipe::raw::RawRecipe;
use crate::runtime::memory;
use crate::runtime::ranks::Ranks;
use crate::scenario::Testbed;

/// A loaded model with what it was loaded from.
type Loaded = (PathBuf, Precision, Rc<LoadedModel>);

/// The device everything runs on, and the model that was loaded last: stages of one model follow each other.
#[derive(Clone)]
pub struct Machine {
    device: Device,
    ranks: Ranks,
    loaded: Rc<RefCell<Option<Loaded>>>,
}

impl Machine {
    /// A machine without a model yet, and those that work with it.
    pub fn new(device: Device, ranks: Ranks) -> Self {
        Self {
            device,
            ranks,
            loaded: Rc::default(),
        }
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The model, loaded unless it is the last one used. Another one is dropped first: two may not fit.
    pub fn model(&self, path: &Path, precision: Precision) -> anyhow::Result<Rc<LoadedModel>> {
        let mut slot = self.loaded.borrow_mut();
        if let Some((known, known_precision, model)) = &*slot
            && known == path
            && *known_precision == precision
        {
            return Ok(Rc::clone(model));
        }
        *slot = None;
        tracing::info!("loading {}", path.display());
        let mut model = LoadedModel::load(path, precision, self.device)?;
        model.ranks = self.ranks.clone();
        let model = Rc::new(model);
        *slot = Some((path.into(), precision, Rc::clone(&model)));
        Ok(model)
    }
}

/// A model of the recipe, found on this machine.
#[derive(Clone)]
pub struct ModelSlot {
    /// Its name in the recipe.
    pub name: String,
    /// As the recipe names it.
    pub spec: ModelSpec,
    /// Its files; none in a dry run that would have to fetch them.
    found: Option<Found>,
    machine: Machine,
}

/// A model's files.
#[derive(Clone)]
struct Found {
    config: ModelConfig,
    path: PathBuf,
    identity: String,
    origin: String,
}

impl ModelSlot {
    /// Find the model, with `fetch` on the hub too, and read its shape and identity. Without, a model of the hub that
    /// is not on this machine yet is left open: its stages can be planned, but not run.
    pub fn find(
        name: &str,
        spec: &ModelSpec,
        base: &Path,
        machine: &Machine,
        fetch: bool,
    ) -> anyhow::Result<Self> {
        // One download, and one digest of the files, for all ranks that share a disk.
        let find = || {
            let (path, origin) = spec.find(base, fetch)?;
            let identity = identity(&path)?;
            Ok((path, origin, identity))
        };
        let found = match machine.ranks.in_turn(|| Ok(find()))? {
            Ok((path, origin, identity)) => Some(Found {
                config: describe(&path)?,
                identity,
                path,
                origin,
            }),
            Err(ModelError::Served { .. }) => {
                // A key that is not there is better told before anything runs.
                Endpoint::open(spec)?;
                None
            }
            Err(ModelError::NotFetched { source_name }) => {
                tracing::warn!(
                    "model `{source_name}` is not on this machine yet; a run would fetch it from the hub first"
                );
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            name: name.into(),
            spec: spec.clone(),
            found,
            machine: machine.clone(),
        })
    }

    /// The loaded model.
    pub fn load(&self) -> anyhow::Result<Rc<LoadedModel>> {
        let source_name = self.spec.source.clone();
        let found = self.found.as_ref().ok_or(match self.spec.is_served() {
            true => ModelError::Served { source_name },
            false => ModelError::NotFetched { source_name },
        })?;
        self.machine.model(&found.path, self.spec.precision)
    }

    /// The server that has the model, where one has.
    pub fn served(&self) -> anyhow::Result<Option<Arc<Endpoint>>> {
        Ok(match self.spec.is_served() {
            true => Some(Arc::new(Endpoint::open(&self.spec)?)),
            false => None,
        })
    }

    /// Where it is from: `owner/name@commit` on the hub, a path, an address.
    pub fn origin(&self) -> String {
        let found = self.found.as_ref();
        found
            .map_or(&self.spec.source, |found| &found.origin)
            .clone()
    }

    /// Number of parameters; 0 where the model is not there yet, or served elsewhere.
    pub fn parameters(&self) -> u64 {
        self.found
            .as_ref()
            .map_or(0, |found| found.config.parameters() as u64)
    }

    /// Bytes of an adapter for it, in f32; 0 where the model is not there yet.
    pub fn adapter_bytes(&self, lora: &LoraConfig) -> u64 {
        let Some(found) = &self.found else { return 0 };
        lora.parameters(&found.config) as u64 * 4
    }

    /// What it takes of the memory it would be loaded into, in words; nothing where the model is not there yet.
    pub fn memory(&self) -> Option<String> {
        let found = self.found.as_ref()?;
        let device = self.machine.device();
        let kind = self.spec.precision.kind(device);
        let footprint = Footprint::of(&found.config, kind, device);
        let what = match memory::free_and_total(device) {
            Some((free, total)) => format!(
                "{}; {:.1} of {:.1} GiB of the GPU are free",
                footprint.describe(free),
                memory::gib(free),
                memory::gib(total)
            ),
            None => {
                let available = memory::available_on_host().map_or(String::new(), |bytes| {
                    format!("; {:.1} GiB available", memory::gib(bytes))
                });
                format!(
                    "weights {:.2} GiB, keys and values {:.1} KiB a token{available}",
                    memory::gib(footprint.weights),
                    footprint.page as f64 / PAGE as f64 / 1024.0
                )
            }
        };
        let precision = self.spec.precision.name(device);
        Some(format!("`{}` in {precision}: {what}", self.name))
    }

    /// Part of the key of every stage that uses the model: its files and the precision they are used in.
    /// Of a served model, nothing but address and name is known.
    pub fn identity(&self) -> String {
        if let Ok((url, name)) = split_source(&self.spec.source)
            && self.spec.is_served()
        {
            // Without the extensions a server puts in values of its own for what is not sent.
            let plain = match &self.spec.endpoint {
                Some(config) if !config.extensions => ", without extensions",
                _ => "",
            };
            return format!("`{name}` as served at {url}{plain}");
        }
        let identity = self
            .found
            .as_ref()
            .map_or("not fetched yet", |f| &f.identity);
        match self.spec.precision {
            Precision::Int8 => format!("{identity} in 8 bits"),
            precision => format!("{identity} {:?}", precision.kind(self.machine.device())),
        }
    }
}

/// Stage names: plain where the recipe has one testbed, model and seed, told apart where it has more.
pub struct Names {
    /// Testbeds of the recipe.
    pub testbeds: usize,
    /// Models of the recipe.
    pub models: usize,
    /// Seeds of the recipe.
    pub seeds: usize,
}

impl Names {
    /// Name of the data stage of a testbed and seed; without a seed, of all seeds.
    pub fn data(&self, testbed: Testbed, seed: Option<u64>) -> String {
        let seed = seed.map_or(String::new(), |seed| self.seed(seed));
        format!("data{}{seed}", self.testbed(testbed))
    }

    /// Name of a model's stage.
    pub fn of(&self, kind: &str, testbed: Testbed, model: &str, seed: u64) -> String {
        let model = if self.models > 1 {
            format!(".{model}")
        } else {
            String::new()
        };
        format!("{kind}{}{model}{}", self.testbed(testbed), self.seed(seed))
    }

    fn testbed(&self, testbed: Testbed) -> String {
        if self.testbeds > 1 {
            format!(".{}", testbed.name())
        } else {
            String::new()
        }
    }

    fn seed(&self, seed: u64) -> String {
        if self.seeds > 1 {
            format!(".s{seed}")
        } else {
            String::new()
        }
    }
}

/// How large a testbed's sets are, as far as that can be told before they are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Training questions, games or problems.
    pub train: u64,
    /// Test questions, games, or complex problems.
    pub test: u64,
}

/// What the stages of one model, testbed and seed have in common.
#[derive(Clone)]
pub struct Slot<'a> {
    /// The recipe, for its folder.
    pub recipe: &'a Recipe,
    /// The testbed.
    pub testbed: Testbed,
    /// The model.
    pub model: &'a ModelSlot,
    /// Root seed.
    pub seed: u64,
    /// Sizes of its sets.
    pub sizes: Option<Sizes>,
}

impl Slot<'_> {
    /// The recipe's settings as the testbed sees them.
    pub fn settings(&self) -> &RawRecipe {
        self.recipe.of(self.testbed)
    }
}
