//! AWQ: inputs that are large make their weights salient, which are made larger before they are rounded; what makes the
//! inputs is made smaller (Lin et al., "AWQ", MLSys 2024).

use kmr_calibration::{Layer, Product, observe};
use kmr_methods::{Matrix, MethodError, awq::scales};
use kmr_sdk::{
    Error, Host, Result, log,
    model::{Graph, Patch},
};

use crate::{
    config::Config,
    sites::{self, Makers, Site, sites},
    values::finite,
};

/// Gram matrices that are held at once, in bytes.
const HELD_BYTES: usize = 256 << 20;

/// Edits that bring the factors in that serve rounding to `bits` best. The model computes the same.
///
/// # Errors
/// If the candidate cannot be observed, or a weight is not finite.
pub fn patch(host: &Host<'_>, graph: &Graph, bits: u8, config: &Config) -> Result<Patch> {
    let sites: Vec<Site> = sites(graph, Makers::NormalizationsAndGates);
    let mut moved = Vec::new();
    let mut rest = sites.as_slice();
    while let Some(first) = rest.first() {
        let mut bytes = 8 * first.channels * first.channels;
        let more = rest[1..].iter().take_while(|site| {
            bytes = bytes.saturating_add(8 * site.channels * site.channels);
            bytes <= HELD_BYTES
        });
        let (now, later) = rest.split_at(1 + more.count());
        rest = later;
        // All readers of a site multiply the same.
        let products: Vec<Product> = now
            .iter()
            .map(|site| Product {
                node: site.readers[0].readers[0].node.clone(),
                input: site.value.clone(),
                groups: 1,
            })
            .collect();
        let layers: Vec<Layer<'_>> = now
            .iter()
            .zip(products.chunks(1))
            .map(|(site, products)| Layer {
                products,
                shape: &site.readers[0].shape,
                columns: site.channels,
                centered: false,
            })
            .collect();
        let inputs = observe(host, graph, &layers, config.samples)?;
        for (site, inputs) in now.iter().zip(inputs) {
            if let Some(inputs) = inputs.first() {
                moved.push((site, factors(graph, site, &inputs.metric, bits, config)?));
            }
        }
    }
    sites::patch(graph, &moved)
}

/// The factors of one site, from the products of every two of its channels.
fn factors(graph: &Graph, site: &Site, gram: &[f64], bits: u8, config: &Config) -> Result<Vec<f32>> {
    let at = |error: MethodError| Error::unsupported(error.to_string()).at(format!("value `{}`", site.value));
    let matrices = site.readers.iter().map(|weight| -> Result<Vec<f32>> {
        let values = finite(graph, &weight.tensor)?;
        Ok(weight.matrix_positions().map(|position| values[position]).collect())
    });
    let matrices: Vec<Vec<f32>> = matrices.collect::<Result<_>>()?;
    let layers = matrices
        .iter()
        .map(|values| Matrix::new(values.len() / site.channels.max(1), site.channels, values));
    let layers = layers.collect::<std::result::Result<Vec<_>, _>>().map_err(at)?;
    let magnitude: Vec<f32> = (0..site.channels)
        .map(|channel| gram[channel * site.channels + channel].sqrt() as f32)
        .collect();
    let scheme = config.scheme(bits, config.sharing(site.channels))?;
    match scales(&layers, &magnitude, gram, &scheme) {
        // Inputs beyond what numbers can hold leave the weights as they are.
        Err(error @ MethodError::NotFinite { .. }) => {
            log::warn!("value `{}` keeps its channels: {error}", site.value);
            Ok(vec![1.0; site.channels])
        }
        found => found.map_err(at),
    }
}
