//! A layer's weights as integers, found once for each number of bits.

use kmr_calibration::Inputs;
use kmr_methods::{Granularity, Matrix, MethodError, Quantized, bias, gptq::gptq, quantize};
use kmr_sdk::{Error, Result, log};

use crate::{
    config::{Config, Method},
    layers::Layer,
};

/// Integer weights, and what has to be added to the bias to keep the means of outputs.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub quantized: Quantized,
    pub correction: Option<Vec<f32>>,
}

/// Quantizes `values`, the weights of `layer`, by `config`. `inputs` holds what each group multiplies them with, where
/// that was observed; `centered` says that their means are taken away, which a bias then has to keep.
///
/// # Errors
/// If a weight or an input is not finite.
pub fn encode(
    layer: &Layer,
    values: &[f32],
    bits: u8,
    inputs: Option<&[Inputs]>,
    centered: bool,
    config: &Config,
) -> Result<Encoded> {
    let at = |error: MethodError| Error::unsupported(error.to_string()).at(format!("tensor `{}`", layer.tensor));
    let matrix = layer.in_matrix_order(values);
    let (rows, columns, groups) = (layer.rows(), layer.columns(), layer.groups());
    let scheme = config.scheme(bits, config.sharing(layer.columns()))?;
    let whole = Matrix::new(rows, columns, &matrix).map_err(at)?;
    // One scale for all groups of a convolution cannot be found group by group.
    let one_scale = scheme.granularity == Granularity::Tensor && groups > 1;
    let inputs = inputs.filter(|inputs| config.method == Method::Gptq && inputs.len() == groups && !one_scale);
    let Some(inputs) = inputs.filter(|_| rows % groups == 0) else {
        let quantized = quantize(whole, &scheme, None).map_err(at)?;
        return Ok(Encoded {
            quantized,
            correction: None,
        });
    };
    let mut joined: Option<Encoded> = None;
    for (inputs, part) in inputs.iter().zip(matrix.chunks(matrix.len() / groups)) {
        let weights = Matrix::new(rows / groups, columns, part).map_err(at)?;
        let quantized = match gptq(weights, &inputs.metric, &scheme, &config.gptq()) {
            Ok(quantized) => quantized,
            // Inputs beyond what numbers can hold leave the nearest codes.
            Err(error) => {
                log::warn!("tensor `{}` is rounded to nearest: {error}", layer.tensor);
                quantize(weights, &scheme, None).map_err(at)?
            }
        };
        let correction = bias::correction(weights, &quantized, &inputs.means).map_err(at)?;
        match &mut joined {
            None => {
                joined = Some(Encoded {
                    quantized,
                    correction: centered.then_some(correction),
                });
            }
            Some(Encoded {
                quantized: whole,
                correction: all,
            }) => {
                whole.rows += quantized.rows;
                whole.codes.extend(quantized.codes);
                whole.scales.extend(quantized.scales);
                whole.zero_points.extend(quantized.zero_points);
                if let Some(all) = all {
                    all.extend(correction);
                }
            }
        }
    }
    joined.ok_or_else(|| Error::unsupported("has no outputs").at(format!("tensor `{}`", layer.tensor)))
}

/// Integers of the right form without regard to quality: what they cost is the same.
///
/// # Errors
/// As [`encode`].
pub fn outline(layer: &Layer, bits: u8, config: &Config) -> Result<Quantized> {
    let scheme = config.scheme(bits, config.sharing(layer.columns()))?;
    let (rows, columns) = (layer.rows(), layer.columns());
    let at = |error: MethodError| Error::unsupported(error.to_string()).at(format!("tensor `{}`", layer.tensor));
    let count = scheme.granularity.count(rows, columns).map_err(at)?;
    Ok(Quantized {
        rows,
        columns,
        granularity: scheme.granularity,
        grid: scheme.grid,
        codes: vec![0; rows * columns],
        scales: vec![1.0; count],
        zero_points: vec![0; count],
    })
}
