//! The kernels' source for one model: its shape as macros, the files of `kernels/`, and the matrix products it needs.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::kernels::{CHUNK, PAGE, RING, WARPS};
use crate::model::config::ModelConfig;
use crate::runtime::gpu::Shape;

/// One build of the matrix product `y = x wᵀ` for at most `columns` rows of x (`kernels/gemm.cu`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Product {
    /// A block owns 64 times so many weight rows.
    pub groups: u32,
    /// Rows of x, padded.
    pub columns: u32,
    /// Tiles under way.
    pub stages: u32,
    /// Blocks that share a tile's inner dimension.
    pub split: u32,
}

/// Shared memory that a block may use, with a little left for alignment and barriers.
const SHARED: u32 = 232_448 - 2048;

impl Product {
    /// Heights of a tile that are built, and in how many parts its inner dimension is cut with each; of those that keep
    /// the busiest multiprocessor busy for the shortest time, the first one is taken. Tall tiles read x less often, and
    /// parts have to be added up.
    const BUILDS: [(u32, u32); 6] = [(2, 1), (3, 1), (2, 2), (1, 2), (2, 3), (1, 3)];

    /// The build that suits weights of so many outputs on so many multiprocessors.
    ///
    /// The split decides the order of the sums, so it depends on the shape alone and never on the number of rows.
    pub fn for_shape(outputs: i64, columns: u32, multiprocessors: u32) -> Self {
        // Clusters of three and more do not fit every group of multiprocessors.
        let at_once = |split: u32| match split {
            1 | 2 => multiprocessors,
            _ => multiprocessors * 7 / 8,
        };
        // Sixths of the time for a tile of 64 outputs over the whole inner dimension.
        let cost = |&(groups, split): &(u32, u32)| {
            let blocks = (outputs as u32).div_ceil(64 * groups) * split;
            blocks.div_ceil(at_once(split)) * groups * 6 / split
        };
        let (groups, split) = Self::BUILDS.into_iter().min_by_key(cost).unwrap_or((2, 1));
        Self::new(groups, columns, split)
    }

    /// A build with as many tiles under way as there is room for.
    pub fn new(groups: u32, columns: u32, split: u32) -> Self {
        let stage = (groups * 64 + columns) * 128;
        Self {
            groups,
            columns,
            stages: (SHARED / stage).min(8),
            split,
        }
    }

    /// Heights of a tile that are built.
    pub const GROUPS: [u32; 3] = [1, 2, 3];

    /// How it is launched on a matrix of so many outputs, with so many rows of adapters' A beside it.
    pub fn launch(self, outputs: u32, update_rows: u32) -> Shape {
        let tile = 64 * self.groups;
        let tiles = outputs.div_ceil(tile) + update_rows.div_ceil(tile);
        Shape {
            shared: self.shared(),
            cluster: self.split,
            ..Shape::new((tiles * self.split, 1), self.threads())
        }
    }

    /// Three tiles are under way, and their memory holds the sums afterwards.
    pub fn has_room(self) -> bool {
        let tile = 64 * self.groups;
        let sums = self.columns * (tile + 4) * 4;
        self.stages >= 3 && sums <= self.stages * (tile + self.columns) * 128
    }

    /// Name of the kernel.
    pub fn name(self) -> String {
        let Self {
            groups,
            columns,
            stages,
            split,
        } = self;
        format!("gemm_{groups}_{columns}_{stages}_{split}")
    }

    /// Threads a block: the multiplying groups, and the loading warp or group.
    pub fn threads(self) -> u32 {
        128 * self.groups + if self.is_tight() { 128 } else { 32 }
    }

    /// Bytes of shared memory.
    pub fn shared(self) -> u32 {
        1024 + self.stages * ((self.groups * 64 + self.columns) * 128 + 16)
    }

    /// The sums need more registers than a thread of a full block has at first.
    fn is_tight(self) -> bool {
        self.groups * self.columns > 512
    }
}

/// Largest rank of an update, after rounding up, that the kernels' registers are meant for.
pub const LARGEST_RANK: i64 = 128;

/// Why the kernels cannot serve this shape, if they cannot.
pub fn unsupported(config: &ModelConfig) -> Option<String> {
    let group = config.heads / config.kv_heads;
    let refuse = |what: String| Some(format!("the fused kernels do not serve {what}"));
    if ![64, 128].contains(&config.head_dim) {
        refuse(format!(
            "heads of width {}, only 64 and 128",
            config.head_dim
        ))
    } else if group > 8 {
        refuse(format!("{group} query heads to a key head, at most 8"))
    } else if config.attention_bias || config.mlp_bias {
        refuse("biases".into())
    } else if config.hidden_size % 64 != 0 || config.hidden_size > 8192 {
        refuse(format!(
            "a hidden width of {}, only multiples of 64 up to 8192",
            config.hidden_size
        ))
    } else if config.intermediate_size % 64 != 0 || config.vocab_size % 8 != 0 {
        refuse(
            "a feed-forward width that is no multiple of 64 or a vocabulary that is none of 8"
                .into(),
        )
    } else {
        None
    }
}

/// The model's shape as the kernels' macros; the rank is a multiple of 8.
pub fn shape_macros(config: &ModelConfig, rank: i64) -> String {
    let mut text = String::new();
    for (name, value) in [
        ("HIDDEN", config.hidden_size),
        ("FFN", config.intermediate_size),
        ("HEADS", config.heads),
        ("KV_HEADS", config.kv_heads),
        ("HEAD_DIM", config.head_dim),
        ("VOCAB", config.vocab_size),
        ("QK_NORM", i64::from(config.qk_norm)),
        ("RANK", rank),
        ("PAGE", PAGE as i64),
        ("CHUNK", CHUNK as i64),
        ("RING", RING.into()),
        ("WARPS", WARPS.into()),
    ] {
        let _ = writeln!(text, "#define {name} {value}");
    }
    let _ = writeln!(text, "#define EPS {:e}f", config.rms_norm_eps);
    text
}

/// All of it, ready to be compiled.
pub fn source(config: &ModelConfig, rank: i64, products: &BTreeSet<Product>) -> String {
    let mut text = shape_macros(config, rank);
    text += include_str!("kernels/common.cu");
    text += include_str!("kernels/gemm.cu");
    // One instruction covers all columns, or half of them where registers are tight.
    let widths = products.iter().map(|p| {
        if p.is_tight() {
            p.columns / 2
        } else {
            p.columns
        }
    });
    for width in widths.collect::<BTreeSet<_>>() {
        text += &instruction(width);
    }
    for Product {
        groups,
        columns,
        stages,
        split,
    } in products
    {
        let _ = writeln!(text, "GEMM({groups}, {columns}, {stages}, {split})");
    }
    text += include_str!("kernels/attention.cu");
    text += include_str!("kernels/elementwise.cu");
    text += include_str!("kernels/sampling.cu");
    text += include_str!("../room.cu");
    text
}

/// The tensor cores' instruction for tiles of this many columns: half as many registers a thread hold the sums.
fn instruction(columns: u32) -> String {
    let registers = columns / 2;
    let list =
        |item: &dyn Fn(u32) -> String| (0..registers).map(item).collect::<Vec<_>>().join(", ");
    let (names, sums) = (
        list(&|i| format!("%{i}")),
        list(&|i| format!("\"+f\"(d[{i}])")),
    );
    format!(
        "template <> struct Product<{columns}> {{\n    static DEVICE void add(float* d, u64 a, u64 b) {{\n        \
         asm volatile(\"{{ .reg .pred p; setp.ne.b32 p, 1, 0; \
         wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{names}}}, %{registers}, %{}, p, 1, 1, 0, 0; }}\" \
         : {sums} : \"l\"(a), \"l\"(b));\n    }}\n}};\n",
        registers + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_of_a_product_does_not_depend_on_the_number_of_rows() {
        for outputs in [960, 4096, 6144, 24_576, 28_672, 151_936] {
            let splits: BTreeSet<u32> = [16, 32, 64, 128, 256]
                .map(|columns| Product::for_shape(outputs, columns, 132).split)
                .into();
            assert_eq!(splits.len(), 1, "{outputs}");
        }
    }

    /// Writes the source for a look with other tools: `ATP_KERNELS=file cargo test kernels_to_a_file -- --ignored`.
    #[test]
    #[ignore = "writes a file"]
    fn kernels_to_a_file() {
        let config = ModelConfig::qwen3_8b();
        let products = [6144, 4096, 24_576, 151_936]
            .into_iter()
            .flat_map(|n| [16, 32, 64, 128, 256].map(|columns| Product::for_shape(n, columns, 132)))
            .collect();
        let file = std::env::var("ATP_KERNELS").expect("ATP_KERNELS names the file");
        std::fs::write(file, source(&config, 8, &products)).expect("the file can be written");
    }

    #[test]
    fn products_fit_shared_memory_and_hold_their_sums_there() {
        for outputs in [960, 4096, 6144, 24_576, 28_672, 151_936] {
            for columns in [16, 32, 64, 128, 256] {
                let p = Product::for_shape(outputs, columns, 132);
                assert!(p.shared() <= 232_448 && p.has_room(), "{p:?}");
            }
        }
    }
}
