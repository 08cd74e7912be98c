//! The codes of layers: found for all that are asked for, on inputs that are observed stage by stage where they are many.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kmr_calibration::{self as calibration, Inputs, stages};
use kmr_sdk::{
    Host, Result,
    model::{Graph, Patch},
};

use rayon::prelude::*;

use crate::{
    config::{Config, Method},
    layers::{Layer, Use},
    values::{finite, with_exact_values, with_values},
    weights::{self, Encoded},
};

/// Gram matrices are observed and held together up to this many bytes; those of all layers are kept, then, for other
/// numbers of bits. Beyond it, as many as that are observed when they are needed, and dropped.
const KEPT_BYTES: usize = 1 << 30;

/// What layers whose codes are found side by side may take together, where it is more than one.
const WORKING_BYTES: usize = 512 << 20;

/// Codes that look at no data are remembered of models of up to this many weights. Those of larger ones are found again
/// when they are asked for again.
const REMEMBERED_WEIGHTS: usize = 256 << 20;

/// A layer's position, and the bits of its codes.
pub type Wanted = (usize, u8);

/// The layers of a model, in which nothing is quantized yet.
#[derive(Clone, Copy)]
pub struct Source<'m> {
    pub graph: &'m Graph,
    pub layers: &'m [Layer],
    /// The bias that keeps each layer's means, where there is one.
    pub biases: &'m [Option<String>],
    pub config: &'m Config,
}

/// What is remembered of a model's codes.
#[derive(Default)]
pub struct Codes {
    /// Where all of them are kept.
    inputs: Option<Vec<Option<Arc<Vec<Inputs>>>>>,
    known: HashMap<Wanted, Arc<Encoded>>,
    /// The stages of the last action, each on the ones before it quantized as it says.
    chain: Vec<Vec<(Wanted, Arc<Encoded>)>>,
}

impl Codes {
    /// The codes of `wanted`, in the same order. The candidate has to be as the source, and is again in the end but for
    /// the values of tensors that are about to be replaced by codes.
    ///
    /// # Errors
    /// If a layer cannot be observed, or a weight or an input is not finite.
    pub fn of(&mut self, host: &Host<'_>, source: Source<'_>, wanted: &[Wanted]) -> Result<Vec<Arc<Encoded>>> {
        let config = source.config;
        if config.method == Method::Gptq && config.prefix {
            return self.on_prefix(host, source, wanted);
        }
        let mut seen = HashSet::new();
        let missing: Vec<Wanted> = wanted
            .iter()
            .copied()
            .filter(|one| !self.known.contains_key(one) && seen.insert(*one))
            .collect();
        let observed = config.method == Method::Gptq && !missing.is_empty();
        let mut found: HashMap<Wanted, Arc<Encoded>> = HashMap::new();
        if observed && self.inputs.is_none() && gram_bytes(source.layers) <= KEPT_BYTES {
            let all: Vec<usize> = (0..source.layers.len()).collect();
            self.inputs = Some(source.observe(host, &all)?);
        }
        if !observed || self.inputs.is_some() {
            let inputs = |&(position, _): &Wanted| self.inputs.as_ref()?[position].as_deref().map(Vec::as_slice);
            found.extend(source.encode_all(&missing, |at| inputs(&missing[at]))?);
        } else {
            for portion in source.portions(&missing) {
                found.extend(source.encode_together(host, &portion)?);
            }
        }
        let all = wanted
            .iter()
            .filter_map(|one| self.known.get(one).or_else(|| found.get(one)));
        let all = all.cloned().collect();
        let weights: usize = source.layers.iter().map(Layer::len).sum();
        if observed || weights <= REMEMBERED_WEIGHTS {
            self.known.extend(found);
        }
        Ok(all)
    }

    /// Stage by stage, each on what the quantized stages before it really give.
    fn on_prefix(&mut self, host: &Host<'_>, source: Source<'_>, wanted: &[Wanted]) -> Result<Vec<Arc<Encoded>>> {
        let stages = source.stages(wanted);
        let same = |(stage, known): (&Vec<Wanted>, &Vec<(Wanted, Arc<Encoded>)>)| {
            stage.iter().eq(known.iter().map(|(one, _)| one))
        };
        let alike = stages.iter().zip(&self.chain).take_while(|&pair| same(pair)).count();
        self.chain.truncate(alike);
        for (at, stage) in stages.iter().enumerate() {
            if self.chain.len() == at {
                self.chain.push(source.encode_together(host, stage)?);
            }
            let done = &self.chain[at];
            if at + 1 < stages.len() {
                host.edit(&source.decoded(done)?)?;
            }
        }
        let all: HashMap<Wanted, &Arc<Encoded>> =
            self.chain.iter().flatten().map(|(one, codes)| (*one, codes)).collect();
        Ok(wanted
            .iter()
            .filter_map(|one| all.get(one).map(|&codes| codes.clone()))
            .collect())
    }
}

impl Source<'_> {
    /// `wanted` in stages of the graph.
    fn stages(&self, wanted: &[Wanted]) -> Vec<Vec<Wanted>> {
        let layers = wanted.iter().map(|&(position, _)| &self.layers[position]);
        let stages = stages(self.graph, layers.map(|layer| layer.nodes.iter().map(String::as_str)));
        let of = |stage: Vec<usize>| stage.into_iter().map(|at| wanted[at]).collect();
        stages.into_iter().map(of).collect()
    }

    /// `wanted` in portions of whole stages, whose Gram matrices may be held together.
    fn portions(&self, wanted: &[Wanted]) -> Vec<Vec<Wanted>> {
        let bytes = |wanted: &[Wanted]| gram_bytes(wanted.iter().map(|&(position, _)| &self.layers[position]));
        let mut portions: Vec<Vec<Wanted>> = Vec::new();
        for stage in self.stages(wanted) {
            match portions.last_mut() {
                Some(portion) if bytes(portion).saturating_add(bytes(&stage)) <= KEPT_BYTES => portion.extend(stage),
                _ => portions.push(stage),
            }
        }
        portions
    }

    /// The codes of layers by the inputs that they have in the candidate as it is.
    fn encode_together(&self, host: &Host<'_>, wanted: &[Wanted]) -> Result<Vec<(Wanted, Arc<Encoded>)>> {
        let positions: Vec<usize> = wanted.iter().map(|&(position, _)| position).collect();
        let inputs = self.observe(host, &positions)?;
        self.encode_all(wanted, |at| inputs[at].as_deref().map(Vec::as_slice))
    }

    /// The codes of layers, of which `inputs` tells what they multiply by the position in `wanted`. As many as there is room
    /// for are worked on side by side.
    fn encode_all<'i>(
        &self,
        wanted: &[Wanted],
        inputs: impl Fn(usize) -> Option<&'i [Inputs]> + Sync,
    ) -> Result<Vec<(Wanted, Arc<Encoded>)>> {
        let mut encoded = Vec::with_capacity(wanted.len());
        while encoded.len() < wanted.len() {
            let rest = &wanted[encoded.len()..];
            let mut bytes = 0_usize;
            let fitting = rest.iter().take_while(|(position, _)| {
                bytes = bytes.saturating_add(working_bytes(&self.layers[*position]));
                bytes <= WORKING_BYTES
            });
            let count = fitting.count().max(1);
            let found: Vec<Result<Arc<Encoded>>> = (encoded.len()..encoded.len() + count)
                .into_par_iter()
                .map(|at| self.encode(wanted[at], inputs(at)))
                .collect();
            // Of several failures the first is told, whatever the number of threads.
            for (&one, found) in rest.iter().zip(found) {
                encoded.push((one, found?));
            }
        }
        Ok(encoded)
    }

    /// What the layers at `positions` multiply, as far as that can be observed.
    fn observe(&self, host: &Host<'_>, positions: &[usize]) -> Result<Vec<Option<Arc<Vec<Inputs>>>>> {
        let watched = positions.iter().map(|&position| {
            let layer = &self.layers[position];
            match &layer.reads {
                Use::Products(products) => Some(calibration::Layer {
                    products,
                    shape: &layer.shape,
                    columns: layer.columns(),
                    centered: self.biases[position].is_some(),
                }),
                _ => None,
            }
        });
        let watched: Vec<Option<calibration::Layer<'_>>> = watched.collect();
        let some: Vec<calibration::Layer<'_>> = watched.iter().flatten().copied().collect();
        let mut found = match some.is_empty() {
            true => Vec::new(),
            false => calibration::observe(host, self.graph, &some, self.config.samples)?,
        }
        .into_iter();
        Ok(watched.iter().map(|layer| layer.and_then(|_| found.next())).collect())
    }

    fn encode(&self, (position, bits): Wanted, inputs: Option<&[Inputs]>) -> Result<Arc<Encoded>> {
        let layer = &self.layers[position];
        let values = finite(self.graph, &layer.tensor)?;
        let centered = self.biases[position].is_some();
        weights::encode(layer, &values, bits, inputs, centered, self.config).map(Arc::new)
    }

    /// Edits that give the layers of a stage the values that their codes stand for.
    fn decoded(&self, stage: &[(Wanted, Arc<Encoded>)]) -> Result<Patch> {
        let mut patch = Patch::new();
        for ((position, _), encoded) in stage {
            let layer = &self.layers[*position];
            let values = encoded.quantized.dequantize();
            patch.push(with_exact_values(
                self.graph,
                &layer.tensor,
                layer.in_tensor_order(&values).into_owned(),
            ));
            if let (Some(correction), Some(bias)) = (&encoded.correction, &self.biases[*position]) {
                let corrected = finite(self.graph, bias)?;
                let corrected = corrected.iter().zip(correction);
                let corrected = corrected.map(|(bias, correction)| bias + correction).collect();
                patch.push(with_values(self.graph, bias, corrected)?);
            }
        }
        Ok(patch)
    }
}

/// About what finding a layer's codes takes besides its Gram matrix: that matrix damped, and its factor; weights, levels and
/// what these leave.
fn working_bytes(layer: &Layer) -> usize {
    let matrices = layer.columns().saturating_mul(layer.columns()).saturating_mul(16);
    matrices.saturating_add(layer.len().saturating_mul(24))
}

/// What the Gram matrices of all layers take: those who read the same share one.
fn gram_bytes<'l>(layers: impl IntoIterator<Item = &'l Layer>) -> usize {
    let mut seen: HashSet<(&str, usize)> = HashSet::new();
    let mut bytes = 0_usize;
    for layer in layers {
        if let Use::Products(products) = &layer.reads
            && let Some(first) = products.first()
            && seen.insert((&first.input, layer.columns()))
        {
            let one = layer.columns().saturating_mul(layer.columns()).saturating_mul(8);
            bytes = bytes.saturating_add(one.saturating_mul(layer.groups().max(1)));
        }
    }
    bytes
}
