//! Keys and values in pages of sixteen tokens, which sequences may share.
//!
//! A page holds all layers. Keys of a head lie position beside position, so that scores are lanes of a register; values
//! lie as rows.

use super::buffer::Buffer;
use crate::model::ModelConfig;
use crate::model::fused::PAGE;
use crate::model::fused::pages::PagePool;
use crate::model::lanes::LANES;

/// Where one layer's key head lies in a page.
#[derive(Debug, Clone, Copy)]
pub struct PagePlan {
    /// Where the keys begin: `dim` rows of sixteen positions.
    pub keys: usize,
    /// Where the values begin: sixteen rows of `padded` numbers.
    pub values: usize,
    /// Numbers of a head.
    pub dim: usize,
    /// The same, filled up to whole registers.
    pub padded: usize,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    /// Who holds which page.
    pub pool: PagePool,
    /// Memory of the pages that were used.
    pages: Vec<Option<Buffer<f32>>>,
    layers: usize,
    kv_heads: usize,
    dim: usize,
}

impl Cache {
    /// An empty one for this shape.
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            pool: PagePool::new(0),
            pages: Vec::new(),
            layers: config.layers as usize,
            kv_heads: config.kv_heads as usize,
            dim: config.head_dim as usize,
        }
    }

    fn padded(&self) -> usize {
        self.dim.next_multiple_of(LANES)
    }

    fn head(&self) -> usize {
        PAGE * (self.dim + self.padded())
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.head() * size_of::<f32>()
    }

    /// Bytes of the pages that were used so far.
    pub fn bytes(&self) -> usize {
        self.pages.iter().flatten().count() * self.page_bytes()
    }

    /// Have at least so many pages; memory is taken when they are used.
    pub fn reserve(&mut self, pages: usize) {
        if self.pages.len() < pages {
            self.pool.extend(pages);
            self.pages.resize_with(pages, || None);
        }
    }

    /// Where a layer's key head lies.
    pub fn plan(&self, layer: usize, kv_head: usize) -> PagePlan {
        let start = (layer * self.kv_heads + kv_head) * self.head();
        PagePlan {
            keys: start,
            values: start + PAGE * self.dim,
            dim: self.dim,
            padded: self.padded(),
        }
    }

    /// The page's memory, taken now if need be.
    pub fn page(&mut self, page: u32) -> *mut f32 {
        let numbers = self.layers * self.kv_heads * self.head();
        self.pages[page as usize]
            .get_or_insert_with(|| Buffer::new(numbers))
            .as_mut_ptr()
    }
}
