//! The rule `quantize`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use kmr_methods::Quantized;
use kmr_sdk::{
    Action, Applied, Error, ErrorCode, Host, KnobSettings, Result, Rule, RunRequest, Target, log,
    model::{
        Build, Graph, GraphIndex, Model, Patch, Tensor,
        shapes::{self, Shapes},
    },
    wire::{Per, Platform},
};

use crate::{
    activations::{self, Activation},
    awq,
    bits::{Bits, KNOB, Setting},
    codes::{Codes, Source, Wanted},
    config::{Activations, Choice, Config, IntegerLayers, Method},
    dynamic, equalize, fold, hard_swish,
    layers::{Layer, Use, layers},
    parts::{self, Part},
    placement, smooth,
    storage::{self, Decode, Stored},
    values::{check_finite, finite, is_unscaled, own, with_values},
    weights::{self, Encoded},
};

/// The target of the knob where it is turned once for the whole model.
const MODEL: &str = "model";
/// Models that are remembered with what was found out about them.
const REMEMBERED: usize = 3;
/// Weights that are encoded and stored at a time, where there are more; a larger one is so alone.
const BATCH: usize = 64 << 20;
/// Bytes of tensors that edits may hold before they are made.
const HELD_BYTES: usize = 128 << 20;
/// About what decoding a weight takes beside its codes and scales.
const DECODING_BYTES: usize = 120;

/// The rule `quantize`.
pub struct Quantize {
    config: Config,
    setting: Setting,
    reduced: bool,
    /// The shapes of the inputs, which no rule changes.
    feeds: Option<BTreeMap<String, Vec<usize>>>,
    prepared: Vec<Prepared>,
}

/// What is found out about a model once.
struct Prepared {
    base: Model,
    /// What is done to the model before any weight is quantized, and the graph after it.
    groundwork: Vec<Patch>,
    graph: Arc<Graph>,
    layers: Arc<Vec<Layer>>,
    /// The bias that keeps each layer's means, where there is one.
    biases: Vec<Option<String>>,
    /// What is known of sizes, where nodes are placed by them.
    shapes: Shapes,
    codes: Codes,
    parameters: BTreeMap<String, activations::Parameters>,
}

impl Rule for Quantize {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        let setting = Setting::read(&knobs)?;
        config.check(setting.per)?;
        Ok(Self {
            reduced: config.reduce_range != Choice::Always(false),
            setting,
            config,
            feeds: None,
            prepared: Vec::new(),
        })
    }

    fn laid_out_for(&mut self, platform: &Platform) {
        if self.config.reduce_range == Choice::Auto {
            self.reduced = !platform.has("vnni");
        }
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let base = host.graph()?;
        let layers = layers(&base.graph, self.config.embeddings);
        let names = layers
            .iter()
            .flat_map(|layer| [layer.tensor.as_str(), layer.label.as_str()]);
        self.config
            .ignore
            .check(names.chain(layers.iter().flat_map(|layer| layer.nodes.iter().map(String::as_str))))?;
        let layers: Vec<Layer> = layers.into_iter().filter(|layer| !self.ignored(layer)).collect();
        for layer in &layers {
            check_finite(&base.graph, &layer.tensor)?;
        }
        self.needs_data(host, &layers)?;
        let target = |target: &str, label: &str, layers: &[&Layer]| {
            let values = self.values(layers);
            (values.len() > 1).then(|| Target {
                knob: KNOB.into(),
                target: target.into(),
                label: label.into(),
                values: values.into_iter().map(Bits::value).collect(),
                layers: layers.iter().flat_map(|layer| layer.nodes.iter().cloned()).collect(),
            })
        };
        if self.setting.per == Per::Model {
            return Ok(target(MODEL, "all weights", &layers.iter().collect::<Vec<_>>())
                .into_iter()
                .collect());
        }
        let targets = layers.iter().flat_map(|layer| self.targets_of(layer));
        let targets = targets.filter_map(|layer| target(&layer.tensor, &layer.label, &[&layer]));
        Ok(targets.collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let mut applied = Applied::default();
        let mut assigned: HashMap<&str, Bits> = HashMap::new();
        for assignment in action.of(KNOB) {
            let bits = Bits::read(&assignment.value).ok_or_else(|| {
                let message = format!("takes 32 (off), 16, \"bf16\" and 8 to 2; got {}", assignment.value);
                Error::invalid_request(message).at(format!("knob `{KNOB}`"))
            })?;
            if bits != Bits::Off {
                assigned.insert(&assignment.target, bits);
            }
        }
        if assigned.is_empty() {
            return Ok(applied);
        }
        let mut prepared = self.take_prepared(host.graph()?, host)?;
        let done = self.quantize(host, &mut prepared, &assigned, action.costs_only, &mut applied);
        self.prepared.push(prepared);
        done.map(|()| applied)
    }
}

impl Quantize {
    fn ignored(&self, layer: &Layer) -> bool {
        let names = [layer.tensor.as_str(), layer.label.as_str()];
        self.config
            .ignore
            .covers(names.into_iter().chain(layer.nodes.iter().map(String::as_str)))
    }

    /// What the knob is turned for in this layer.
    fn targets_of(&self, layer: &Layer) -> Vec<Layer> {
        parts::targets(layer, self.setting.per, self.config.channel_group)
    }

    /// Refuses settings that look at calibration data where there is none.
    fn needs_data(&self, host: &Host<'_>, layers: &[Layer]) -> Result<()> {
        let observed = layers.iter().any(|layer| matches!(layer.reads, Use::Products(_)));
        let (key, value) = match (self.config.method, self.config.activations) {
            (_, Activations::Static) => ("activations", "\"float\""),
            (Method::Gptq, _) => ("method", "\"mse\""),
            _ => return Ok(()),
        };
        let request = RunRequest {
            batch: Some(1),
            limit: Some(1),
            ..Default::default()
        };
        if !observed || self.setting.values.len() < 2 {
            return Ok(());
        }
        match host.run(&request) {
            Err(error) if error.code == ErrorCode::NOT_FOUND => {
                let message = format!(
                    "looks at calibration data, and there is none; give the manifest `data.calibration`, or write \
                     {value}"
                );
                Err(Error::invalid_configuration(message).at(format!("config.{key}")))
            }
            _ => Ok(()),
        }
    }

    /// The values that make these layers smaller, each smaller than the one before.
    fn values(&self, layers: &[&Layer]) -> Vec<Bits> {
        let bytes = |bits: Bits| -> usize {
            let one = |layer: &&Layer| {
                let count = layer.len();
                match bits {
                    Bits::Off => count * layer.stored_bits / 8,
                    Bits::Float16 | Bits::BFloat16 => 2 * count + DECODING_BYTES / 2,
                    Bits::Integer(bits) => storage::stored_bytes(count, bits).0 + 4 * layer.rows() + DECODING_BYTES,
                }
            };
            layers.iter().map(one).sum()
        };
        let mut values = Vec::new();
        let mut least = usize::MAX;
        for &bits in &self.setting.values {
            let alike = matches!(
                (values.last(), bits),
                (Some(Bits::Float16 | Bits::BFloat16), Bits::BFloat16 | Bits::Float16)
            );
            if bytes(bits) < least && !alike {
                least = bytes(bits);
                values.push(bits);
            }
        }
        values
    }

    /// What is known about `base`, or is found out now.
    fn take_prepared(&mut self, base: Model, host: &Host<'_>) -> Result<Prepared> {
        if let Some(known) = self.prepared.iter().position(|prepared| prepared.base == base) {
            return Ok(self.prepared.remove(known));
        }
        if self.prepared.len() >= REMEMBERED {
            self.prepared.remove(0);
        }
        let mut graph = base.graph.clone();
        let mut groundwork = Vec::new();
        let lay = |graph: &mut Graph, patch: Patch, groundwork: &mut Vec<Patch>| -> Result<()> {
            if !patch.edits.is_empty() {
                *graph = patch.apply(graph)?;
                groundwork.push(patch);
            }
            Ok(())
        };
        if self.config.fold_batch_norm {
            loop {
                let known = groundwork.len();
                for fold in [fold::batch_norms, fold::affine, hard_swish::patch] {
                    let patch = fold(&graph)?;
                    lay(&mut graph, patch, &mut groundwork)?;
                }
                if groundwork.len() == known {
                    break;
                }
            }
        }
        if self.config.equalize {
            let patch = equalize::patch(&graph)?;
            lay(&mut graph, patch, &mut groundwork)?;
        }
        if self.config.smooth > 0.0 {
            let patch = smooth::patch(host, &graph, self.config.smooth, self.config.samples)?;
            if patch.edits.is_empty() {
                log::warn!("`smooth` changes nothing: no layer normalization is read by matrix products alone");
            }
            lay(&mut graph, patch, &mut groundwork)?;
        }
        if self.config.awq > 0 {
            let patch = awq::patch(host, &graph, self.config.awq, &self.config)?;
            if patch.edits.is_empty() {
                log::warn!("`awq` changes nothing: no normalization or gate is read by matrix products alone");
            }
            lay(&mut graph, patch, &mut groundwork)?;
        }
        if self.config.bias_correction {
            let patch = missing_biases(&graph);
            lay(&mut graph, patch, &mut groundwork)?;
        }
        let layers = layers(&graph, self.config.embeddings).into_iter();
        let layers: Vec<Layer> = layers.filter(|layer| !self.ignored(layer)).collect();
        let index = graph.index();
        let bias = |layer: &Layer| bias_of(&graph, &index, layer).filter(|_| self.config.bias_correction);
        let shapes = match self.config.activations {
            Activations::Static => {
                let mut model = base.clone();
                model.graph = graph.clone();
                let feeds = self.feeds.get_or_insert_with(|| host.feeds(&base));
                shapes::infer(&model, feeds)?
            }
            _ => Shapes::default(),
        };
        Ok(Prepared {
            shapes,
            biases: layers.iter().map(bias).collect(),
            layers: Arc::new(layers),
            graph: Arc::new(graph),
            base,
            groundwork,
            codes: Codes::default(),
            parameters: BTreeMap::new(),
        })
    }

    fn quantize(
        &self,
        host: &Host<'_>,
        prepared: &mut Prepared,
        assigned: &HashMap<&str, Bits>,
        costs_only: bool,
        applied: &mut Applied,
    ) -> Result<()> {
        for patch in &prepared.groundwork {
            host.edit(patch)?;
        }
        let layers = prepared.layers.clone();
        let targets: Vec<Vec<Layer>> = layers.iter().map(|layer| self.targets_of(layer)).collect();
        if let Some(unknown) = assigned.keys().find(|asked| match self.setting.per {
            Per::Model => **asked != MODEL,
            _ => targets.iter().flatten().all(|target| target.tensor != **asked),
        }) {
            let message =
                "this model has no such target; targets have to be asked for again when the model has changed";
            return Err(Error::not_found(message).at(format!("target `{unknown}`")));
        }
        let mut parts = parts::parts(&layers, &targets, |layer, target| match self.setting.per {
            Per::Model => assigned
                .get(MODEL)
                .copied()
                .filter(|bits| self.values(&[layer]).contains(bits)),
            _ => assigned.get(target.tensor.as_str()).copied(),
        });
        let cut = parts::cut(&prepared.graph, &layers, &parts)?;
        let graph = match cut.edits.is_empty() {
            true => prepared.graph.clone(),
            false => Arc::new(cut.apply(&prepared.graph)?),
        };
        let rounded: HashSet<&str> = parts
            .iter()
            .filter(|part| matches!(part.bits, Bits::Integer(_)))
            .map(|part| part.layer.tensor.as_str())
            .collect();
        let integer = self.integer_nodes(prepared, |layer| rounded.contains(layer.tensor.as_str()));
        let on_integers: HashSet<&str> = graph
            .nodes
            .iter()
            .zip(&integer)
            .filter_map(|(node, integer)| integer.then_some(node.id()))
            .collect();
        let works_on_integers = |layer: &Layer| layer.nodes.iter().any(|node| on_integers.contains(node.as_str()));
        let wanted = |part: &Part| match part.bits {
            Bits::Integer(bits) => Some((part.position, self.codes(bits, works_on_integers(&part.layer)))),
            _ => None,
        };
        let integers: Vec<&Part> = parts.iter().filter(|part| wanted(part).is_some()).collect();
        // Layers are observed while they are whole; what looks at no data is encoded when it is stored.
        let mut observed: Option<HashMap<Wanted, Arc<Encoded>>> = None;
        if self.config.method == Method::Gptq && !costs_only {
            let all: Vec<Wanted> = integers.iter().filter_map(|part| wanted(part)).collect();
            let encoded = self.encoded(host, prepared, &all, costs_only)?;
            observed = Some(all.into_iter().zip(encoded).collect());
        }
        if !cut.edits.is_empty() {
            host.edit(&cut)?;
        }
        let mut build = Build::on(&graph);
        for part in &parts {
            let (position, layer) = (part.position, &part.layer);
            let what = match part.rows.len() == layers[position].rows() {
                true => "weights".into(),
                false => format!("weights of channels {} to {}", part.rows.start, part.rows.end - 1),
            };
            applied.change(&layers[position].nodes[0], &what, Bits::Off.name(), part.bits.name());
            if matches!(part.bits, Bits::Float16 | Bits::BFloat16) {
                build.place(Some(&layer.reader));
                storage::store_half(&mut build, layer, finite(&graph, &layer.tensor)?, part.bits)?;
                make_edits(host, &mut build, HELD_BYTES)?;
            }
        }
        if let Some(observed) = &observed {
            let corrected = integers.iter().filter_map(|part| {
                let encoded = observed.get(&wanted(part)?)?;
                Some((part.position, &part.rows, &**encoded))
            });
            for (position, correction) in parts::corrections(&layers, corrected) {
                if let Some(bias) = &prepared.biases[position] {
                    correct(&mut build, &graph, bias, &correction)?;
                }
            }
        }
        if parts.iter().any(|part| part.layer.stored_bits == 16) {
            let index = graph.index();
            for part in parts.iter_mut().filter(|part| matches!(part.bits, Bits::Integer(_))) {
                if let Some(layer) = storage::without_cast(&mut build, &graph, &index, &part.layer) {
                    part.layer = layer;
                }
            }
        }
        let integers: Vec<&Part> = parts.iter().filter(|part| wanted(part).is_some()).collect();
        let decoded = |part: &&&Part| {
            let layer = &part.layer;
            let is_product = matches!(layer.reads, Use::Products(_));
            is_product && !works_on_integers(layer) && !has_weight_kernel(&graph, layer)
        };
        let left = integers.iter().filter(decoded).count();
        if self.config.weight_kernels && left > 0 {
            applied.notes.push(format!(
                "{left} weights are read by other operators than MatMul, for which runtimes have no `weight_kernels`; they \
                 are decoded when the model is loaded"
            ));
        }
        let first = graph.nodes.first().map(|node| node.id().to_owned());
        for batch in parts::batches(integers.clone(), BATCH) {
            let all: Vec<Wanted> = batch.iter().filter_map(|part| wanted(part)).collect();
            let encoded = match &observed {
                Some(observed) => all.iter().filter_map(|one| observed.get(one).cloned()).collect(),
                None => self.encoded(host, prepared, &all, costs_only)?,
            };
            let quantized: Vec<Cow<'_, Quantized>> = batch
                .iter()
                .zip(&encoded)
                .map(|(part, encoded)| parts::rows_of(&encoded.quantized, &part.rows))
                .collect();
            let stored = batch.iter().zip(&quantized).map(|(part, quantized)| {
                let layer = &part.layer;
                let integer = works_on_integers(layer);
                Stored {
                    layer,
                    quantized,
                    decode: if integer || self.keeps_integers(&graph, layer, quantized) {
                        Decode::Kernel
                    } else {
                        Decode::Constant
                    },
                    spelled_zero: self.config.activations == Activations::Static
                        && integer
                        && !reads(&graph, layer, "Conv"),
                }
            });
            let stored: Vec<Stored<'_>> = stored.collect();
            storage::store_integers(&mut build, &stored, first.as_deref())?;
            make_edits(host, &mut build, HELD_BYTES)?;
        }
        make_edits(host, &mut build, 0)?;
        let integer_layers = integers.iter().map(|part| &part.layer);
        let integer_layers: Vec<&Layer> = integer_layers.filter(|layer| works_on_integers(layer)).collect();
        match self.config.activations {
            Activations::Float => Ok(()),
            Activations::Dynamic => {
                let products = integer_layers
                    .iter()
                    .flat_map(|layer| layer.nodes.iter().map(String::as_str));
                let patch = dynamic::quantized(&host.graph()?.graph, &products.collect())?;
                applied.notes.push(format!(
                    "{} products quantize their inputs at run time",
                    integer_layers.len()
                ));
                host.edit(&patch)
            }
            Activations::Static => {
                let left = integers.len() - integer_layers.len();
                if left > 0 {
                    applied.notes.push(format!(
                        "{left} weights are left to floating point, which is faster there"
                    ));
                }
                self.quantize_activations(host, prepared, (&integer_layers, &integer), costs_only, applied)
            }
        }
    }

    fn quantize_activations(
        &self,
        host: &Host<'_>,
        prepared: &mut Prepared,
        (layers, integer): (&[&Layer], &[bool]),
        costs_only: bool,
        applied: &mut Applied,
    ) -> Result<()> {
        let graph = prepared.graph.clone();
        let planned = activations::plan(&graph, integer);
        let own: Vec<&Activation> = planned.iter().filter(|activation| activation.like.is_none()).collect();
        let parameters = if costs_only {
            activations::uncalibrated(&own)?
        } else {
            self.calibrated(host, prepared, &own)?
        };
        let parameters = activations::with_likes(&planned, parameters);
        let current = host.graph()?.graph;
        let index = current.index();
        let mut build = Build::on(&current);
        for layer in layers {
            for id in &layer.nodes {
                let node = current.node(id).filter(|node| node.is("Gemm"));
                let scales = current
                    .node(&layer.tensor)
                    .and_then(|made| made.input(1))
                    .and_then(|name| current.tensor(name));
                let input = node.and_then(|node| parameters.get(node.input(0)?));
                if let (Some(node), Some(scales), Some(&(scale, _))) = (node, scales, input) {
                    activations::integer_bias(&mut build, (&current, &index), node, scale, &scales.to_f32()?);
                }
            }
        }
        let biases = build.finish();
        host.edit(&biases)?;
        host.edit(&activations::quantized(&host.graph()?.graph, &planned, &parameters))?;
        applied.notes.push(format!("{} activations quantized", planned.len()));
        Ok(())
    }

    /// The parameters of `own`: those already known of this model, and the others now.
    fn calibrated(
        &self,
        host: &Host<'_>,
        prepared: &mut Prepared,
        own: &[&Activation],
    ) -> Result<BTreeMap<String, activations::Parameters>> {
        let unknown = |activation: &&&Activation| !prepared.parameters.contains_key(&activation.value);
        let missing: Vec<&Activation> = own.iter().filter(unknown).copied().collect();
        if !missing.is_empty() {
            let found = activations::calibrate(host, &missing, &self.config)?;
            prepared.parameters.extend(found);
        }
        let known = own
            .iter()
            .filter_map(|activation| prepared.parameters.get_key_value(&activation.value));
        Ok(known.map(|(value, parameters)| (value.clone(), *parameters)).collect())
    }

    /// The integers of layers, each with its number of bits.
    fn encoded(
        &self,
        host: &Host<'_>,
        prepared: &mut Prepared,
        wanted: &[Wanted],
        costs_only: bool,
    ) -> Result<Vec<Arc<Encoded>>> {
        if costs_only {
            let outlines = wanted.iter().map(|&(position, bits)| {
                Ok(Arc::new(Encoded {
                    quantized: weights::outline(&prepared.layers[position], bits, &self.config)?,
                    correction: None,
                }))
            });
            return outlines.collect();
        }
        let (graph, layers) = (prepared.graph.clone(), prepared.layers.clone());
        let source = Source {
            graph: &graph,
            layers: &layers,
            biases: &prepared.biases,
            config: &self.config,
        };
        prepared.codes.of(host, source, wanted)
    }

    /// The bits of the codes that are stored in `bits`.
    fn codes(&self, bits: u8, on_integers: bool) -> u8 {
        // Kernels without VNNI add pairs of products in 16 bits, which eight bits overflow.
        if self.reduced && on_integers { bits.min(7) } else { bits }
    }

    /// The nodes that work on integers, by position, where the layers that `chosen` takes are integers.
    fn integer_nodes(&self, prepared: &Prepared, chosen: impl Fn(&Layer) -> bool) -> Vec<bool> {
        let graph = &*prepared.graph;
        let layers: Vec<&Layer> = prepared
            .layers
            .iter()
            .filter(|layer| matches!(layer.reads, Use::Products(_)) && chosen(layer))
            .collect();
        let products = layers.iter().flat_map(|layer| &layer.nodes).map(String::as_str);
        match (self.config.activations, self.config.integer_layers) {
            (Activations::Float, _) => vec![false; graph.nodes.len()],
            (Activations::Dynamic, _) => {
                let able = |node: &str| graph.node(node).is_some_and(|node| dynamic::can_be(graph, node));
                let layers = layers.iter().filter(|layer| layer.nodes.iter().all(|node| able(node)));
                let products: HashSet<&str> = layers.flat_map(|layer| &layer.nodes).map(String::as_str).collect();
                graph.nodes.iter().map(|node| products.contains(node.id())).collect()
            }
            (Activations::Static, IntegerLayers::All) => activations::following(graph, &products.collect()),
            (Activations::Static, IntegerLayers::Faster) => placement::fastest(graph, &layers, &prepared.shapes),
        }
    }

    /// Whether the integers of this layer are left to a runtime's kernel for float activations.
    fn keeps_integers(&self, graph: &Graph, layer: &Layer, quantized: &Quantized) -> bool {
        self.config.weight_kernels && matches!(quantized.grid.bits(), 4 | 8) && has_weight_kernel(graph, layer)
    }
}

/// Makes the edits that are gathered, if they hold more than `held_bytes` of tensors.
fn make_edits(host: &Host<'_>, build: &mut Build, held_bytes: usize) -> Result<()> {
    if held_bytes > 0 && build.tensor_bytes() <= held_bytes {
        return Ok(());
    }
    host.edit(&build.take())
}

/// Whether nodes of this operator alone read `layer`.
fn reads(graph: &Graph, layer: &Layer, op_type: &str) -> bool {
    layer
        .nodes
        .iter()
        .all(|node| graph.node(node).is_some_and(|node| node.is(op_type)))
}

/// Whether runtimes have a kernel for float activations and the integers of this layer.
fn has_weight_kernel(graph: &Graph, layer: &Layer) -> bool {
    matches!(layer.reads, Use::Products(_)) && reads(graph, layer, "MatMul")
}

/// Edits that give every Conv without a bias one of zeros, so that it can be corrected.
fn missing_biases(graph: &Graph) -> Patch {
    let mut build = Build::on(graph);
    for layer in layers(graph, false) {
        for id in &layer.nodes {
            let node = graph.node(id).filter(|node| node.is("Conv") && node.input(2).is_none());
            if let (Some(node), [_, ..]) = (node, layer.shape.as_slice()) {
                let zeros = Tensor::from_vec(vec![layer.shape[0]], vec![0.0_f32; layer.shape[0]]);
                let name = build.tensor(&format!("{}_bias", layer.tensor), zeros);
                build.rewire(node.id(), 2, &name);
            }
        }
    }
    build.finish()
}

/// The bias that is added to the outputs of `layer`: a float32 initializer that the one node that reads the layer, or
/// an Add behind it, has to itself.
fn bias_of(graph: &Graph, index: &GraphIndex<'_>, layer: &Layer) -> Option<String> {
    let [id] = layer.nodes.as_slice() else {
        return None;
    };
    let node = graph.node(id)?;
    let own = |name: &&str| own(graph, index, name).is_some_and(|bias| bias.shape() == [layer.rows()]);
    let name = match node.op_type() {
        "Conv" => node.input(2).filter(own),
        "Gemm" if is_unscaled(node) => node.input(2).filter(own),
        "MatMul" => match index.sole_consumer(id) {
            Some((reader, _)) if graph.nodes[reader].is("Add") => {
                graph.nodes[reader].inputs().iter().map(String::as_str).find(own)
            }
            _ => None,
        },
        _ => None,
    };
    name.map(str::to_owned)
}

/// Adds `correction` to the initializer `bias`.
fn correct(build: &mut Build, graph: &Graph, bias: &str, correction: &[f32]) -> Result<()> {
    let corrected = finite(graph, bias)?;
    let corrected = corrected.iter().zip(correction);
    let corrected = corrected.map(|(bias, correction)| bias + correction).collect();
    build.edit(with_values(graph, bias, corrected)?);
    Ok(())
}
