//! SmoothQuant: what makes activations hard to quantize moves into weights, where a normalization stands before
//! matrix products (Xiao et al., "SmoothQuant", ICML 2023).

use kmr_methods::equalize::smooth;
use kmr_sdk::{
    Error, Host, ObserveRequest, Result, Statistic,
    model::{Graph, Patch},
};

use crate::{
    sites::{self, Makers, Site, sites},
    values::{finite, inner, raise_to_magnitudes},
};

/// Edits that move the share `alpha` of the difficulty. The model computes the same.
///
/// # Errors
/// If the candidate cannot be observed, or a weight is not finite.
pub fn patch(host: &Host<'_>, graph: &Graph, alpha: f64, samples: usize) -> Result<Patch> {
    let sites: Vec<Site> = sites(graph, Makers::Normalizations);
    if sites.is_empty() {
        return Ok(Patch::new());
    }
    let observed = host.observe(&ObserveRequest {
        values: sites.iter().map(|site| site.value.clone()).collect(),
        statistics: vec![Statistic::Min, Statistic::Max],
        channel_axis: -1,
        samples: Some(samples),
        ..Default::default()
    })?;
    let mut moved = Vec::new();
    for site in &sites {
        let least = observed.get(&site.value, Statistic::Min)?.to_f32()?;
        let most = observed.get(&site.value, Statistic::Max)?.to_f32()?;
        let activation: Vec<f32> = least
            .iter()
            .zip(most.iter())
            .map(|(low, high)| high.max(-low))
            .collect();
        let mut weight = vec![0.0_f32; site.channels];
        for reader in &site.readers {
            let values = finite(graph, &reader.tensor)?;
            raise_to_magnitudes(&mut weight, &values, inner(graph, &reader.tensor, reader.input_axis));
        }
        let factors = smooth(&activation, &weight, alpha).map_err(|error| Error::unsupported(error.to_string()))?;
        moved.push((site, factors));
    }
    sites::patch(graph, &moved)
}
