//! Attention and rotary embeddings.

use burn::backend::ops::FloatTensorOps;
use kmr_model::{DType, Tensor};

use super::{
    Operator,
    activation::scalar,
    onnx,
    reals::{Reals, filled, rounded},
    softmax, strided,
};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, from_vec, mask, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[onnx("Attention", attention), onnx("RotaryEmbedding", rotate)];

/// An operand `[batch, length, heads·size]` or `[batch, heads, length, size]` as the latter.
fn with_heads(call: &Call<'_>, x: Float, heads: Option<i64>) -> Result<Float, ComputeError> {
    let own = shape(&x);
    if own.contains(&0) {
        return Err(call.unsupported(format!("an empty operand of {own:?}")));
    }
    match own[..] {
        [_, _, _, _] => Ok(x),
        [batch, length, hidden] => {
            let heads = heads.and_then(|heads| usize::try_from(heads).ok());
            let heads = heads.filter(|&heads| heads > 0 && hidden.is_multiple_of(heads));
            let heads = heads.ok_or_else(|| call.wrong(format!("the heads of {own:?} are not known")))?;
            let split = reshape(x, vec![batch, length, heads, hidden / heads]);
            Ok(B::float_swap_dims(split, 1, 2))
        }
        _ => Err(call.wrong(format!("an operand of {own:?}"))),
    }
}

/// Each head `times` times.
fn repeated(x: Float, times: usize) -> Float {
    let own = shape(&x);
    let [batch, heads, length, size] = own[..] else {
        return x;
    };
    if times == 1 {
        return x;
    }
    let full = vec![batch, heads, times, length, size];
    let x = B::float_expand(reshape(x, vec![batch, heads, 1, length, size]), full.into());
    reshape(x, vec![batch, heads * times, length, size])
}

/// What is added to the products of queries and keys: 0, minus infinity or a given number.
struct Bias {
    /// `[batch, heads, queries, keys]`.
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Bias {
    /// The given mask, whose last axis may be short: what it lacks is masked.
    fn new(call: &Call<'_>, shape: Vec<usize>, given: Option<Tensor>) -> Result<Self, ComputeError> {
        let Some(given) = given else {
            let values = filled(call, &shape, 0.0)?;
            return Ok(Self { shape, values });
        };
        let own = given.shape().to_vec();
        let (Some(&width), true) = (own.last(), own.len() <= 4) else {
            return Err(call.wrong(format!("a mask of {own:?}")));
        };
        let numbers: Vec<f32> = if given.dtype() == DType::BOOL {
            let allowed = given.bytes().iter();
            allowed
                .map(|&bit| if bit == 0 { f32::NEG_INFINITY } else { 0.0 })
                .collect()
        } else {
            let reals = Reals::of(call, &given)?;
            reals.values.into_iter().map(|value| value as f32).collect()
        };
        let keys = shape[3];
        if width > keys || width == 0 {
            return Err(call.wrong(format!("a mask of {own:?} for {keys} keys")));
        }
        let lines = numbers.chunks(width);
        let padded = lines.flat_map(|line| {
            let rest = std::iter::repeat_n(f32::NEG_INFINITY, keys - width);
            line.iter().copied().chain(rest)
        });
        let mut padded_shape = own.clone();
        padded_shape[own.len() - 1] = keys;
        let padded = Tensor::from_vec(padded_shape.clone(), padded.collect::<Vec<_>>());
        if call.broadcast(&padded_shape, &shape)? != shape {
            return Err(call.wrong(format!("a mask of {own:?} for {shape:?}")));
        }
        let full = strided::expand(&padded, &shape).map_err(|message| call.wrong(message))?;
        let values = full.to_f32().map_err(|e| call.wrong(e.to_string()))?.into_owned();
        Ok(Self { shape, values })
    }

    /// Masks what `allowed` forbids, by sample, query and key.
    fn restrict(&mut self, allowed: impl Fn(usize, i64, i64) -> bool) {
        let [_, heads, queries, keys] = self.shape[..] else {
            return;
        };
        for (at, value) in self.values.iter_mut().enumerate() {
            let (query, key) = (at / keys % queries, at % keys);
            if !allowed(at / (keys * queries * heads), query as i64, key as i64) {
                *value = f32::NEG_INFINITY;
            }
        }
    }
}

fn attention(call: &mut Call<'_>) -> Outputs {
    let (q, k, v) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let given = call.has(3).then(|| call.constant(3)).transpose()?;
    let past = [call.optional_float(4)?, call.optional_float(5)?];
    let lengths = call.optional_integers(6)?;
    let flat = shape(&q).len() == 3;
    let (q_heads, k_heads) = (call.node.int("q_num_heads"), call.node.int("kv_num_heads"));
    let q = with_heads(call, q, q_heads)?;
    let mut k = with_heads(call, k, k_heads)?;
    let mut v = with_heads(call, v, k_heads)?;
    let [past_k, past_v] = past;
    let before = past_k
        .as_ref()
        .map_or(0, |past| shape(past).get(2).copied().unwrap_or(0));
    if past_k.is_some() != past_v.is_some() || past_k.is_some() && lengths.is_some() {
        return Err(call.unsupported("past keys and values come together, and without lengths"));
    }
    let appended = |past: Option<Float>, x: Float| -> Result<Float, ComputeError> {
        let Some(past) = past else { return Ok(x) };
        let (own, full) = (shape(&past), shape(&x));
        if own.len() != 4 || own[..2] != full[..2] || own[3] != full[3] {
            return Err(call.wrong(format!("past of {own:?} before {full:?}")));
        }
        if own[2] == 0 {
            return Ok(x);
        }
        Ok(B::float_cat(vec![past, x], 2))
    };
    k = appended(past_k, k)?;
    v = appended(past_v, v)?;
    let (present_k, present_v) = (k.clone(), v.clone());
    let (sq, sk, sv) = (shape(&q), shape(&k), shape(&v));
    let fits = sq[0] == sk[0] && sk[..3] == sv[..3] && sq[3] == sk[3] && sq[1].is_multiple_of(sk[1]);
    if !fits {
        return Err(call.wrong(format!("queries {sq:?}, keys {sk:?} and values {sv:?} do not fit")));
    }
    let (queries, keys) = (sq[2], sk[2]);
    let k = repeated(k, sq[1] / sk[1]);
    let v = repeated(v, sq[1] / sk[1]);

    let full = vec![sq[0], sq[1], queries, keys];
    let mut bias = Bias::new(call, full.clone(), given)?;
    if lengths.as_ref().is_some_and(|lengths| lengths.len() != sq[0]) {
        return Err(call.wrong(format!("{} samples with lengths {lengths:?}", sq[0])));
    }
    // Which key the first query stands at.
    let offset = |sample: usize| match &lengths {
        Some(lengths) => lengths[sample] - queries as i64,
        None => before as i64,
    };
    if call.int("is_causal", 0) == 1 {
        bias.restrict(|sample, query, key| key <= query + offset(sample));
    }
    let (left, right) = (call.int("left_window_size", -1), call.int("right_window_size", -1));
    bias.restrict(|sample, query, key| {
        let at = query + offset(sample);
        (left < 0 || key >= at.saturating_sub(left)) && (right < 0 || key <= at.saturating_add(right))
    });
    if let Some(lengths) = &lengths {
        bias.restrict(|sample, _, key| key < lengths[sample]);
    }

    let scale = call.node.float("scale").unwrap_or_else(|| 1.0 / (sq[3] as f32).sqrt());
    // Half of the scale goes to either side.
    let root = scalar(scale.sqrt());
    let scaled = |x: Float| B::float_mul_scalar(x, root);
    let mut products = B::float_matmul(scaled(q), B::float_swap_dims(scaled(k), 2, 3));
    let raw = products.clone();
    let cap = call.float_attribute("softcap", 0.0);
    if cap > 0.0 {
        let tanh = B::float_tanh(B::float_mul_scalar(products, scalar(1.0 / cap)));
        products = B::float_mul_scalar(tanh, scalar(cap));
    }
    let capped = products.clone();
    // A query that may see nothing sees zeros; its own products go on, so that nothing becomes NaN.
    let blind: Vec<bool> = bias
        .values
        .chunks(keys)
        .map(|line| line.iter().all(|&value| value == f32::NEG_INFINITY))
        .collect();
    let any_blind = blind.contains(&true);
    let blind = || {
        let spread = blind.iter().flat_map(|&blind| std::iter::repeat_n(blind, keys));
        mask(spread.collect(), full.clone())
    };
    let zeros = || from_vec(vec![0.0; full.iter().product()], full.clone());
    let added = from_vec(bias.values, full.clone());
    let biased = B::float_add(products, added.clone());
    let mut weights = if any_blind {
        softmax::along(B::float_mask_where(biased.clone(), blind(), zeros()), 3)
    } else {
        softmax::along(biased.clone(), 3)
    };
    if any_blind {
        weights = B::float_mask_where(weights, blind(), zeros());
    }
    let shown = match call.int("qk_matmul_output_mode", 0) {
        _ if !call.names_output(3) => weights.clone(),
        0 if cap > 0.0 => return Err(call.unsupported("products before they are capped are not given out")),
        0 => raw,
        1 if cap > 0.0 => capped,
        1 => return Err(call.unsupported("mode 1 of the products without a cap is not specified alike everywhere")),
        2 => biased,
        3 => weights.clone(),
        other => return Err(call.wrong(format!("attribute `qk_matmul_output_mode` is {other}"))),
    };
    let mut output = B::float_matmul(weights, v);
    if flat {
        output = reshape(B::float_swap_dims(output, 1, 2), vec![sq[0], queries, sq[1] * sv[3]]);
    }
    Ok([output, present_k, present_v, shown].map(Value::Float).into())
}

fn rotate(call: &mut Call<'_>) -> Outputs {
    let x = Reals::new(call, 0)?;
    let (cosines, sines) = (Reals::new(call, 1)?, Reals::new(call, 2)?);
    let positions = call.optional_integers(3)?;
    let full = x.shape.clone();
    // Sizes and strides of the batch, the sequence and the heads.
    let (batch, length, heads, size, strides) = match full[..] {
        [batch, heads, length, size] => (batch, length, heads, size, [heads * length * size, size, length * size]),
        [batch, length, hidden] => {
            let heads = usize::try_from(call.int("num_heads", 0)).unwrap_or(0);
            if heads == 0 || !hidden.is_multiple_of(heads) {
                return Err(call.wrong(format!("{heads} heads of {hidden}")));
            }
            let size = hidden / heads;
            (batch, length, heads, size, [length * hidden, hidden, size])
        }
        _ => return Err(call.wrong(format!("an input of {full:?}"))),
    };
    let rotated = match usize::try_from(call.int("rotary_embedding_dim", 0)) {
        Ok(0) => size,
        Ok(rotated) if rotated <= size => rotated,
        _ => return Err(call.wrong("attribute `rotary_embedding_dim` is larger than a head")),
    };
    let half = rotated / 2;
    let expected = |cache: &Reals| match positions {
        Some(_) => matches!(cache.shape[..], [_, width] if width == half),
        None => cache.shape == [batch, length, half],
    };
    let rows = cosines.shape.first().copied().unwrap_or(0);
    let fits = rotated % 2 == 0
        && expected(&cosines)
        && cosines.shape == sines.shape
        && positions
            .as_ref()
            .is_none_or(|positions| positions.len() == batch * length);
    if !fits {
        return Err(call.wrong(format!(
            "an input of {full:?} with caches of {:?} and {:?}",
            cosines.shape, sines.shape
        )));
    }
    let interleaved = call.int("interleaved", 0) == 1;
    let mut values = x.values.clone();
    for sample in 0..batch {
        for step in 0..length {
            let place = sample * length + step;
            let row = match &positions {
                Some(positions) => usize::try_from(positions[place]).ok().filter(|&row| row < rows),
                None => Some(place),
            };
            let row = row.ok_or_else(|| call.wrong(format!("a position lies outside {rows} rows")))?;
            for head in 0..heads {
                let start = sample * strides[0] + step * strides[1] + head * strides[2];
                for pair in 0..half {
                    let (first, second) = if interleaved {
                        (2 * pair, 2 * pair + 1)
                    } else {
                        (pair, pair + half)
                    };
                    let (cosine, sine) = (cosines.values[row * half + pair], sines.values[row * half + pair]);
                    let (real, imaginary) = (x.values[start + first], x.values[start + second]);
                    values[start + first] = cosine * real - sine * imaginary;
                    values[start + second] = sine * real + cosine * imaginary;
                }
            }
        }
    }
    Ok(vec![rounded(call, x.dtype, full, values)?])
}
