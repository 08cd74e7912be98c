//! Where zeros may lie.

use crate::{MethodError, tiles::parts};

/// Columns of which the same share goes, and which wait for one another: greater blocks see less of what the columns
/// before them ask for, smaller ones choose among fewer weights (128 in the paper, too).
const BLOCK: usize = 128;

/// How many zeros each row has, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// So many in each row, wherever they cost least.
    Share {
        /// Zeros in each row.
        removed: usize,
    },
    /// Of every `of` neighbors all but `keep`.
    Blocks {
        /// Weights that stay, at most.
        keep: usize,
        /// Neighbors.
        of: usize,
        /// Columns from one neighbor to the next: the taps of a convolution's kernel, whose neighbors are input
        /// channels; 1 for matrix products. What a row's end cuts short keeps as many as a whole block.
        stride: usize,
    },
}

/// The columns in the order in which they are gone through, and how many make a block.
pub(super) struct Plan {
    pub columns: Vec<usize>,
    /// Sizes of blocks, which follow one another.
    pub blocks: Vec<usize>,
    pub quota: Quota,
}

/// How many weights of a block go.
#[derive(Clone, Copy)]
pub(super) enum Quota {
    /// Its part of so many in a row.
    Removed(usize),
    /// All but so many.
    Keep(usize),
}

impl Plan {
    pub fn of(pattern: Pattern, columns: usize) -> Result<Self, MethodError> {
        let domain = |what, domain, value: usize| MethodError::Domain {
            what,
            domain,
            value: value as f64,
        };
        match pattern {
            Pattern::Share { removed } if removed > columns => {
                Err(domain("the zeros of a row", "at most its columns", removed))
            }
            Pattern::Share { removed } => Ok(Self {
                columns: (0..columns).collect(),
                blocks: parts(0..columns, BLOCK).map(|block| block.len()).collect(),
                quota: Quota::Removed(removed),
            }),
            Pattern::Blocks { of: 0, .. } => Err(domain("the neighbors of a block", "at least 1", 0)),
            Pattern::Blocks { stride, .. } if stride == 0 || !columns.is_multiple_of(stride) => {
                Err(domain("the stride of neighbors", "a divisor of the columns", stride))
            }
            Pattern::Blocks { keep, of, stride } => {
                let channels = columns / stride;
                let mut plan = Self {
                    columns: Vec::with_capacity(columns),
                    blocks: Vec::new(),
                    quota: Quota::Keep(keep),
                };
                for block in parts(0..channels, of) {
                    for tap in 0..stride {
                        plan.columns.extend(block.clone().map(|channel| channel * stride + tap));
                        plan.blocks.push(block.len());
                    }
                }
                Ok(plan)
            }
        }
    }
}

/// How many of a row's weights have gone, of those that were not zero to begin with.
pub(super) struct Tally {
    quota: Quota,
    /// Weights that are not zero, and how many of them go in all.
    live: usize,
    due: usize,
    seen: usize,
    gone: usize,
}

impl Tally {
    /// Of a row of `columns` weights, `live` of which are not zero.
    pub fn new(quota: Quota, columns: usize, live: usize) -> Self {
        let due = match quota {
            Quota::Removed(removed) => removed.saturating_sub(columns - live),
            Quota::Keep(_) => 0,
        };
        Self {
            quota,
            live,
            due,
            seen: 0,
            gone: 0,
        }
    }

    /// How many of a block's weights go, `live` of which are not zero. Blocks come one after the other.
    pub fn of_block(&mut self, live: usize) -> usize {
        match self.quota {
            Quota::Keep(keep) => live.saturating_sub(keep),
            Quota::Removed(_) => {
                self.seen += live;
                // To the nearest whole number, over all blocks so far.
                let until_here = match self.live {
                    0 => 0,
                    all => (2 * self.due * self.seen + all) / (2 * all),
                };
                let now = until_here - self.gone;
                self.gone = until_here;
                now
            }
        }
    }
}
