//! Token sequences packed without padding, sharing prefixes.
//!
//! A batch is a list of segments. A root segment is a sequence of its own; a child continues a root, sees all of it
//! and itself, and nothing of its siblings. So a prompt with several completions — chosen and rejected, the group of
//! a GRPO prompt, the options of a decision — is computed once and gives exactly what separate sequences would, up to
//! rounding.

use std::ops::Range;

use tch::{Device, Tensor};

/// One stretch of tokens.
#[derive(Debug, Clone)]
struct Segment {
    range: Range<usize>,
    parent: Option<usize>,
}

/// Index of a segment in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentId(usize);

/// Packed token sequences.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    tokens: Vec<i64>,
    positions: Vec<i64>,
    segments: Vec<Segment>,
}

impl Packed {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a sequence of its own. It must not be empty.
    pub fn root(&mut self, tokens: &[u32]) -> SegmentId {
        self.push(tokens, None)
    }

    /// Add a continuation of a root.
    pub fn child(&mut self, parent: SegmentId, tokens: &[u32]) -> SegmentId {
        assert!(
            self.segments[parent.0].parent.is_none(),
            "a child's parent is a root"
        );
        self.push(tokens, Some(parent.0))
    }

    fn push(&mut self, tokens: &[u32], parent: Option<usize>) -> SegmentId {
        assert!(
            !tokens.is_empty() || parent.is_some(),
            "a root has at least one token"
        );
        let start = self.tokens.len();
        let offset = parent.map_or(0, |p| self.segments[p].range.len());
        self.tokens.extend(tokens.iter().map(|&t| i64::from(t)));
        self.positions
            .extend((offset..offset + tokens.len()).map(|p| p as i64));
        self.segments.push(Segment {
            range: start..self.tokens.len(),
            parent,
        });
        SegmentId(self.segments.len() - 1)
    }

    /// Put all segments of another batch behind these; gives the row that its first became.
    pub fn append(&mut self, other: &Self) -> usize {
        let (rows, segments) = (self.tokens.len(), self.segments.len());
        self.tokens.extend(&other.tokens);
        self.positions.extend(&other.positions);
        self.segments.extend(other.segments.iter().map(|s| Segment {
            range: s.range.start + rows..s.range.end + rows,
            parent: s.parent.map(|p| p + segments),
        }));
        rows
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// No tokens at all.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Largest position, plus one: the context this batch needs.
    pub fn context(&self) -> i64 {
        self.positions.iter().max().map_or(0, |p| p + 1)
    }

    /// Token ids.
    pub fn token_ids(&self) -> &[i64] {
        &self.tokens
    }

    /// Position of each token in its sequence.
    pub fn position_ids(&self) -> &[i64] {
        &self.positions
    }

    /// Token ids, `(T)`.
    pub fn tokens(&self, device: Device) -> Tensor {
        Tensor::from_slice(&self.tokens).to_device(device)
    }

    /// Positions, `(T)`.
    pub fn positions(&self, device: Device) -> Tensor {
        Tensor::from_slice(&self.positions).to_device(device)
    }

    /// Packed rows of a segment.
    pub fn rows(&self, segment: SegmentId) -> Range<usize> {
        self.segments[segment.0].range.clone()
    }

    /// For each token of a child: the packed row whose hidden state predicts it.
    pub fn predictors(&self, child: SegmentId) -> Vec<usize> {
        let segment = &self.segments[child.0];
        let parent = segment.parent.expect("predictors are asked of a child");
        let last = self.segments[parent].range.end - 1;
        let own = segment.range.clone();
        std::iter::once(last)
            .chain(own)
            .take(segment.range.len())
            .collect()
    }

    /// Segments as `(rows, parent's rows)`, in order.
    pub fn spans(&self) -> impl Iterator<Item = (Range<usize>, Option<Range<usize>>)> + '_ {
        self.segments.iter().map(|s| {
            (
                s.range.clone(),
                s.parent.map(|p| self.segments[p].range.clone()),
            )
        })
    }
}

/// Split items of these packed sizes into passes of at most `tokens`; a larger item is a pass of its own.
pub fn passes(sizes: &[usize], tokens: usize) -> Vec<Range<usize>> {
    let (mut all, mut start, mut sum) = (vec![], 0, 0);
    for (at, size) in sizes.iter().enumerate() {
        if at > start && sum + size > tokens {
            all.push(start..at);
            (start, sum) = (at, 0);
        }
        sum += size;
    }
    if start < sizes.len() {
        all.push(start..sizes.len());
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Roots with their children, as tokens.
    type Trees = Vec<(Vec<u32>, Vec<Vec<u32>>)>;

    fn trees() -> impl Strategy<Value = Trees> {
        let tokens = |least| prop::collection::vec(0u32..100, least..9);
        prop::collection::vec((tokens(1), prop::collection::vec(tokens(0), 0..5)), 0..6)
    }

    #[test]
    fn passes_hold_what_fits_in_order() {
        assert_eq!(passes(&[3, 3, 3, 9, 1, 1], 7), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(passes(&[2, 2], 1), [0..1, 1..2]);
        assert_eq!(passes(&[2, 2], 0), [0..1, 1..2]);
        assert!(passes(&[], 5).is_empty());
    }

    proptest! {
        #[test]
        fn every_sequence_is_found_again_with_its_positions(trees in trees(), turn in any::<bool>()) {
            let mut batch = Packed::new();
            // Children right after their root, or all roots first: where they stand must not matter.
            let mut placed = vec![];
            if turn {
                let roots: Vec<_> = trees.iter().map(|(root, _)| batch.root(root)).collect();
                for ((root, children), id) in trees.iter().zip(roots) {
                    placed.push((None, id, root));
                    placed.extend(children.iter().map(|child| (Some(root), batch.child(id, child), child)));
                }
            } else {
                for (root, children) in &trees {
                    let id = batch.root(root);
                    placed.push((None, id, root));
                    placed.extend(children.iter().map(|child| (Some(root), batch.child(id, child), child)));
                }
            }
            let spans: Vec<_> = batch.spans().collect();
            prop_assert_eq!(spans.len(), placed.len());
            let mut seen = vec![false; batch.len()];
            let mut context = 0;
            for (root, id, own) in placed {
                let rows = batch.rows(id);
                let (span, parent) = &spans[id.0];
                prop_assert_eq!(&rows, span);
                for row in rows.clone() {
                    prop_assert!(!std::mem::replace(&mut seen[row], true), "a row of two segments");
                }
                let before: &[u32] = root.map_or(&[], |root| root);
                let whole: Vec<i64> = before.iter().chain(own).map(|&t| i64::from(t)).collect();
                // What the segment sees: its parent's rows, then its own.
                let sees: Vec<usize> = parent.clone().into_iter().flatten().chain(rows.clone()).collect();
                let tokens: Vec<i64> = sees.iter().map(|&row| batch.tokens[row]).collect();
                let positions: Vec<i64> = sees.iter().map(|&row| batch.positions[row]).collect();
                prop_assert_eq!(&tokens, &whole);
                prop_assert_eq!(positions, (0..whole.len() as i64).collect::<Vec<_>>());
                context = context.max(whole.len() as i64);
                if root.is_some() {
                    // Each token is predicted from the row before it in its own sequence.
                    let from = &sees[before.len() - 1..sees.len() - 1];
                    prop_assert_eq!(batch.predictors(id), from);
                }
            }
            prop_assert!(seen.into_iter().all(|s| s), "a row of no segment");
            prop_assert_eq!(batch.context(), context);
        }
    }

    #[test]
    fn children_continue_their_parent_and_are_predicted_from_it() {
        let mut batch = Packed::new();
        let root = batch.root(&[5, 6, 7]);
        let first = batch.child(root, &[8, 9]);
        let second = batch.child(root, &[3]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 3]);
        assert_eq!(batch.predictors(first), [2, 3]);
        assert_eq!(batch.predictors(second), [2]);
        assert_eq!(batch.rows(second), 5..6);
        assert_eq!(batch.context(), 5);
        let mut two = Packed::new();
        two.root(&[1, 2]);
        assert_eq!(two.append(&batch), 2);
        assert_eq!(two.tokens, [1, 2, 5, 6, 7, 8, 9, 3]);
        assert_eq!(two.positions, [0, 1, 0, 1, 2, 3, 4, 3]);
        let spans: Vec<_> = two.spans().collect();
        assert_eq!(spans[3], (7..8, Some(2..5)));
    }
}
