//! Attention ("Attention Is All You Need", arXiv 1706.03762) between rows of tokens.

use crate::network::Network;
use crate::tokens::Tokens;

/// How queries share keys.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    /// Queries that share a key and a value; 1 where each has its own.
    pub shared: usize,
    /// Numbers of a head.
    pub size: usize,
}

impl Heads {
    /// Whether there is an axis of the queries that share a key.
    pub fn are_grouped(self) -> bool {
        self.shared > 1
    }

    /// Rows [batch · sequence, heads · size] as [batch, sequence, heads, size], or for grouped heads as
    /// [batch, sequence, keys, shared, size], where keys and values have 1 in place of `shared`.
    pub fn split(self, network: &mut Network, tokens: &Tokens, rows: &str, name: &str, queries: bool) -> String {
        let size = self.size as i64;
        let rest = match (self.are_grouped(), queries) {
            (false, _) => network.integers("heads", &[-1, size]),
            (true, true) => network.integers("query_heads", &[-1, self.shared as i64, size]),
            (true, false) => network.integers("key_heads", &[-1, 1, size]),
        };
        let shape = network.with("Concat", &[&tokens.sizes, &rest], &format!("{name}.shape"), |node| {
            node.with_int("axis", 0)
        });
        network.op("Reshape", &[rows, &shape], name)
    }

    /// Mixes the values, all three as [`Heads::split`] has them, into rows again. `mask` is added to the scores.
    pub fn attend(self, network: &mut Network, [query, key, value]: [&str; 3], mask: &str, module: &str) -> String {
        let [queries, keys, back]: [&[i64]; 3] = match self.are_grouped() {
            false => [&[0, 2, 1, 3], &[0, 2, 3, 1], &[0, 2, 1, 3]],
            true => [&[0, 2, 3, 1, 4], &[0, 2, 3, 4, 1], &[0, 3, 1, 2, 4]],
        };
        let mut transposed = |x: &str, order: &[i64], name: &str| {
            network.with("Transpose", &[x], &format!("{module}.{name}"), |node| {
                node.with_ints("perm", order)
            })
        };
        let query = transposed(query, queries, "queries");
        let key = transposed(key, keys, "keys");
        let value = transposed(value, queries, "values");
        let scale = network.scalar("attention_scale", (self.size as f32).sqrt().recip());
        let scores = network.op("MatMul", &[&query, &key], &format!("{module}.products"));
        let scores = network.op("Mul", &[&scores, &scale], &format!("{module}.scaled"));
        let scores = network.op("Add", &[&scores, mask], &format!("{module}.scores"));
        let weights = network.with("Softmax", &[&scores], &format!("{module}.probabilities"), |node| {
            node.with_int("axis", -1)
        });
        let mixed = network.op("MatMul", &[&weights, &value], &format!("{module}.mixed"));
        let mixed = network.with("Transpose", &[&mixed], &format!("{module}.heads"), |node| {
            node.with_ints("perm", back)
        });
        network.with("Flatten", &[&mixed], &format!("{module}.context"), |node| {
            node.with_int("axis", 2)
        })
    }
}
