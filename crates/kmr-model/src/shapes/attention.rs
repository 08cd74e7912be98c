//! Attention.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Stop, Types::*, contradiction, rule, several, show, single},
    elementwise::same,
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "Attention" => rule(By(types), attention),
        "LinearAttention" => rule(By(linear_types), linear),
        "RotaryEmbedding" => rule(Same(&[0, 1, 2]), same),
        _ => None,
    }
}

fn types(context: &Context) -> Vec<Option<DType>> {
    let keys = context.dtype(0).or(context.dtype(1));
    let values = context.dtype(2).or(context.dtype(5));
    vec![keys, keys, values, keys]
}

fn linear_types(context: &Context) -> Vec<Option<DType>> {
    let queries = context.dtype(0).or(context.dtype(1));
    // Without a past state, its type is that of the queries.
    let state = if context.has(3) { context.dtype(3) } else { queries };
    vec![queries, state]
}

/// `[batch, heads, length, size]` of an input that has it so, or packed as `[batch, length, heads*size]`.
struct Heads {
    batch: Dim,
    heads: Dim,
    length: Dim,
    size: Dim,
}

impl Heads {
    fn read(context: &Context, position: usize, heads: &str) -> Result<Self, Stop> {
        match context.shape(position)? {
            [batch, heads, length, size] => Ok(Self {
                batch: batch.clone(),
                heads: heads.clone(),
                length: length.clone(),
                size: size.clone(),
            }),
            [batch, length, packed] => {
                let heads: Dim = context.required(heads)?.into();
                let size = packed.exact_div(&heads);
                if heads.is(0) || (packed.fixed().is_some() && !size.is_known()) {
                    return contradiction(format!("{packed} features do not divide into {heads} heads"));
                }
                Ok(Self {
                    batch: batch.clone(),
                    length: length.clone(),
                    heads,
                    size,
                })
            }
            other => contradiction(format!("takes rank 3 or 4; got shape {}", show(other))),
        }
    }
}

fn attention(context: &Context) -> Outputs {
    let query = Heads::read(context, 0, "q_num_heads")?;
    let packed = context.shape(0)?.len() == 3;
    let unknown = || Heads {
        batch: query.batch.clone(),
        heads: Dim::Unknown,
        length: Dim::Unknown,
        size: Dim::Unknown,
    };
    let read = |position| match Heads::read(context, position, "kv_num_heads") {
        Err(Stop::Unknown) => Ok(unknown()),
        heads => heads,
    };
    let (key, value) = (read(1)?, read(2)?);
    if query.size.unify(&key.size).is_none() || key.length.unify(&value.length).is_none() {
        return contradiction(format!(
            "keys of shape {} do not fit the queries or the values",
            show(context.shape(1)?)
        ));
    }
    let output = if packed {
        vec![
            query.batch.clone(),
            query.length.clone(),
            query.heads.times(&value.size),
        ]
    } else {
        vec![
            query.batch.clone(),
            query.heads.clone(),
            query.length.clone(),
            value.size.clone(),
        ]
    };
    let past = match (context.has(4), context.optional_shape(4)) {
        (false, _) => Dim::Fixed(0),
        (true, Some([_, _, past, _])) => past.clone(),
        (true, _) => Dim::Unknown,
    };
    let total = past.plus(&key.length);
    let present = |heads: &Heads| {
        vec![
            heads.batch.clone(),
            heads.heads.clone(),
            total.clone(),
            heads.size.clone(),
        ]
    };
    let scores = vec![
        query.batch.clone(),
        query.heads.clone(),
        query.length.clone(),
        total.clone(),
    ];
    several([output, present(&key), present(&value), scores])
}

fn linear(context: &Context) -> Outputs {
    let (query, key) = (
        Heads::read(context, 0, "q_num_heads")?,
        Heads::read(context, 1, "kv_num_heads")?,
    );
    let value = Heads::read(context, 2, "kv_num_heads")?;
    let output = vec![query.batch.clone(), query.length, query.heads.times(&value.size)];
    several([output, vec![query.batch, key.heads, key.size, value.size]])
}

/// Scores and probabilities are changed by subgraphs; the result has the shape of the queries, as wide as
/// the values.
pub(super) fn flexible(context: &Context) -> Outputs {
    match (context.shape(0)?, context.shape(2)?) {
        ([batch, heads, length, _], [.., size]) => {
            single(vec![batch.clone(), heads.clone(), length.clone(), size.clone()])
        }
        (other, _) => contradiction(format!("takes rank 4; got shape {}", show(other))),
    }
}
