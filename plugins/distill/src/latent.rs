//! Stored weights, trained: a real number stands behind each code ("Quantization and Training of Neural Networks for
//! Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877, section 3).
//!
//! In the session, codes are made anew from latent float32 weights by the scale and the zero point that they are stored
//! with: round(clip(latent / scale + zero point)). What decodes them stays as it is, so the network computes with
//! exactly what is stored in the end. In derivatives rounding is the identity within its range.

use std::collections::BTreeMap;

use kmr_methods::pack;
use kmr_sdk::{
    Error, Result, Session,
    model::{
        DType, Edit, Graph, Patch, Tensor,
        stored::{Codes, Decode, Half, Integers, Spread, narrow},
    },
};

use crate::session_edits::SessionEdits;

/// A stored weight while it is trained.
pub struct Latent {
    /// The session's float32 tensor.
    pub tensor: String,
    shape: Vec<usize>,
    kind: Kind,
}

enum Kind {
    /// Stored as integers.
    Integers {
        codes: Codes,
        scales: Vec<f32>,
        zeros: Vec<f32>,
        /// The least and the greatest code.
        range: (i16, i16),
    },
    /// Stored in this type of 16 bits.
    Half { stored: String, dtype: DType },
}

/// Lets `weight` be made from a latent tensor, in the session alone.
///
/// Codes in words may be all that their bits hold. Codes in bytes and half bytes may be what they are now, from the
/// least to the greatest: their type may be wider than their grid, and kernels may rely on that.
///
/// # Errors
/// If what is stored contradicts itself.
pub fn integers(edits: &mut SessionEdits<'_>, weight: &Integers) -> Result<Latent> {
    let graph = edits.graph();
    let broken = || {
        Error::unsupported("its codes, scales and zero points do not go together")
            .at(format!("weight `{}`", weight.value))
    };
    let codes = read(graph, weight).ok_or_else(broken)?;
    let scales = weight.scales(graph).ok_or_else(broken)?;
    let zeros = weight.zero_points(graph).ok_or_else(broken)?;
    let range = match &weight.codes {
        Codes::Typed { .. } => codes.iter().fold((i16::MAX, i16::MIN), |(low, high), &code| {
            (low.min(code), high.max(code))
        }),
        Codes::Packed { bits, low, .. } => (*low, *low + ((1_i16 << bits) - 1)),
    };
    let values = codes
        .iter()
        .zip(&scales)
        .zip(&zeros)
        .map(|((&code, scale), zero)| (f32::from(code) - zero) * scale);
    let name = &weight.value;
    let tensor = edits.tensor(
        &format!("{name}.latent"),
        Tensor::from_vec(weight.shape.clone(), values.collect()),
    );
    let each = |values: &[f32]| Tensor::from_vec(weight.shape.clone(), values.to_vec());
    let single = graph
        .tensor(&weight.scale)
        .is_some_and(|scale| scale.dtype() == DType::FLOAT);
    let constant = weight.spread == Spread::Broadcast && single;
    let (scale, zero) = match (constant, &weight.zero) {
        (true, None) => (weight.scale.clone(), None),
        _ => {
            let scale = edits.tensor(&format!("{name}.scale"), each(&scales));
            let zero = weight
                .zero
                .as_ref()
                .map(|_| edits.tensor(&format!("{name}.zero"), each(&zeros)));
            (scale, zero)
        }
    };
    edits.place(Some(&weight.node));
    let mut value = edits.node("Div", &[&tensor, &scale], &format!("{name}.level"));
    if let Some(zero) = &zero {
        value = edits.node("Add", &[&value, zero], &format!("{name}.code"));
    }
    let low = edits.constant("lowest", Tensor::scalar(f32::from(range.0)));
    let high = edits.constant("highest", Tensor::scalar(f32::from(range.1)));
    value = edits.node("Clip", &[&value, &low, &high], &format!("{name}.clipped"));
    value = edits.node("Round", &[&value], &format!("{name}.rounded"));
    match weight.decode {
        Decode::Constant => edits.rewire(&weight.node, 0, &value),
        Decode::Kernel => {
            if let Some(zero) = &zero {
                value = edits.node("Sub", &[&value, zero], &format!("{name}.shifted"));
            }
            value = edits.node("Mul", &[&value, &scale], &format!("{name}.decoded"));
            edits.redirect(&weight.node, &value);
        }
    }
    Ok(Latent {
        tensor,
        shape: weight.shape.clone(),
        kind: Kind::Integers {
            codes: weight.codes.clone(),
            scales,
            zeros,
            range,
        },
    })
}

/// Lets a weight of 16 bits be read from a latent tensor, in the session alone.
///
/// # Errors
/// If it is not stored in 16 bits.
pub fn half(edits: &mut SessionEdits<'_>, weight: &Half) -> Result<Latent> {
    let stored = edits
        .graph()
        .tensor(&weight.tensor)
        .ok_or_else(|| Error::not_found("is not there").at(&weight.tensor))?;
    let (shape, dtype) = (stored.shape().to_vec(), stored.dtype());
    let values = stored.to_f32()?.into_owned();
    let tensor = edits.tensor(
        &format!("{}.latent", weight.value),
        Tensor::from_vec(shape.clone(), values),
    );
    edits.redirect(&weight.value, &tensor);
    Ok(Latent {
        tensor,
        shape,
        kind: Kind::Half {
            stored: weight.tensor.clone(),
            dtype,
        },
    })
}

/// What stores the latent tensors that `session` has come to, in the storage that the candidate has.
///
/// # Errors
/// If they cannot be read.
pub fn stored(graph: &Graph, session: &Session<'_>, latents: &[Latent]) -> Result<Patch> {
    let mut patch = Patch::new();
    let mut words: BTreeMap<&str, (u8, Vec<u8>)> = BTreeMap::new();
    for latent in latents {
        let tensor = session.parameter(&latent.tensor)?;
        let values = tensor.values::<f32>()?;
        match &latent.kind {
            Kind::Half { stored, dtype } => patch.push(Edit::StoreTensor {
                name: stored.clone(),
                tensor: Tensor::from_f32(*dtype, latent.shape.clone(), values.into_owned())?,
            }),
            Kind::Integers {
                codes,
                scales,
                zeros,
                range,
            } => {
                let code = |((value, scale), zero): ((&f32, &f32), &f32)| {
                    let code = (value / scale + zero).clamp(range.0.into(), range.1.into());
                    code.round_ties_even() as i16
                };
                let rounded: Vec<i16> = values.iter().zip(scales).zip(zeros).map(code).collect();
                match codes {
                    Codes::Typed { tensor: name } => patch.push(Edit::StoreTensor {
                        name: name.clone(),
                        tensor: typed(graph, name, &rounded)?,
                    }),
                    Codes::Packed {
                        words: name,
                        bits,
                        first,
                        low,
                    } => {
                        let known = match words.remove(name.as_str()) {
                            Some(known) => known,
                            None => (*bits, unpacked(graph, name, *bits)?),
                        };
                        let (_, all) = words.entry(name).or_insert(known);
                        for (slot, code) in all.iter_mut().skip(*first).zip(rounded) {
                            *slot = (code - low) as u8;
                        }
                    }
                }
            }
        }
    }
    for (name, (bits, codes)) in words {
        let packed = pack::pack(&codes, bits).map_err(|error| Error::unsupported(error.to_string()).at(name))?;
        let shape = graph
            .tensor(name)
            .map_or_else(Vec::new, |tensor| tensor.shape().to_vec());
        patch.push(Edit::StoreTensor {
            name: name.to_owned(),
            tensor: Tensor::new(
                DType::UINT64,
                shape,
                packed
                    .iter()
                    .flat_map(|word| word.to_le_bytes())
                    .collect::<Vec<u8>>()
                    .into(),
            )?,
        });
    }
    Ok(patch)
}

/// The codes of `weight`.
fn read(graph: &Graph, weight: &Integers) -> Option<Vec<i16>> {
    match &weight.codes {
        Codes::Typed { .. } => weight.typed_codes(graph),
        Codes::Packed {
            words,
            bits,
            first,
            low,
        } => {
            let all = unpacked(graph, words, *bits).ok()?;
            let own = all.get(*first..first.checked_add(weight.len())?)?;
            Some(own.iter().map(|&code| i16::from(code) + low).collect())
        }
    }
}

/// All codes of a tensor of words, those of its padding included.
fn unpacked(graph: &Graph, name: &str, bits: u8) -> Result<Vec<u8>> {
    let tensor = graph
        .tensor(name)
        .ok_or_else(|| Error::not_found("is not there").at(name))?;
    let words = tensor.values::<u64>()?;
    let count = words.len() * usize::from(64 / bits.max(1));
    pack::unpack(&words, count, bits).map_err(|error| Error::unsupported(error.to_string()).at(name))
}

/// Codes in the type and shape of the initializer `name`.
fn typed(graph: &Graph, name: &str, codes: &[i16]) -> Result<Tensor> {
    let before = graph
        .tensor(name)
        .ok_or_else(|| Error::not_found("is not there").at(name))?;
    let signed = matches!(before.dtype(), DType::INT8 | DType::INT4);
    let bits = if matches!(before.dtype(), DType::INT4 | DType::UINT4) {
        4
    } else {
        8
    };
    Ok(narrow(codes, signed, bits, before.shape().to_vec())?)
}
