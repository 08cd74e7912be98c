//! The judgment of an engine by one case.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use buffa::Message;
use bytes::Bytes;
use kmr_model::{DType, Dimension, ErrorKind, Graph, Model, Tensor, ValueInfo, codec, proto};

use crate::{
    Case, DataSet,
    comparison::{difference, type_difference},
};

/// The inputs of a model, by name.
pub type Feeds = BTreeMap<String, Tensor>;

/// Why an engine has no outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The engine says that it does not execute this, and what and why.
    Refused(String),
    /// It tried, and something else went wrong.
    Failed(String),
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All outputs are as expected.
    Passed,
    /// Types and shapes are as expected. Values are random, so that there are no right ones.
    PassedByShape,
    /// The engine, or the harness for all engines, refused the case for this reason.
    Refused(String),
    /// An output differs, or the engine failed without refusing: the first difference.
    Wrong(String),
}

/// Operators whose outputs are random.
const RANDOM: [&str; 6] = [
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
];

/// Runs `case` with an engine and compares what it returns with what is expected.
///
/// `run` computes the graph's outputs, in their order. A panic in it is [`Verdict::Wrong`].
pub fn judge(case: &Case, mut run: impl FnMut(&Model, &Feeds) -> Result<Vec<Tensor>, Failure>) -> Verdict {
    let model = match Model::decode(case.model.clone()) {
        Ok(model) => model,
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Verdict::Refused(format!("the model is not read: {error}"));
        }
        Err(error) => return Verdict::Wrong(format!("the model is not read: {error}")),
    };
    if case.data.is_empty() {
        return Verdict::Wrong("there are no data to judge by".to_owned());
    }
    let random = model.graph.nodes.iter().any(|node| RANDOM.contains(&node.op_type()));
    for (number, set) in case.data.iter().enumerate() {
        let (feeds, expected) = match read(&model.graph, set) {
            Ok(read) => read,
            Err(verdict) => return verdict,
        };
        let outputs = catch_unwind(AssertUnwindSafe(|| run(&model, &feeds)))
            .unwrap_or_else(|_| Err(Failure::Failed("the engine panicked".to_owned())));
        let outputs = match outputs {
            Ok(outputs) => outputs,
            Err(Failure::Refused(reason)) => return Verdict::Refused(reason),
            Err(Failure::Failed(message)) => return Verdict::Wrong(message),
        };
        let place = |output: usize| format!("data set {number}, output {output}");
        if outputs.len() != expected.len() {
            let (got, expected) = (outputs.len(), expected.len());
            return Verdict::Wrong(format!("data set {number} has {got} outputs; expected {expected}"));
        }
        let differ = if random { type_difference } else { difference };
        for (position, (actual, expected)) in outputs.iter().zip(&expected).enumerate() {
            if let Some(difference) = differ(actual, expected) {
                return Verdict::Wrong(format!("{} {difference}", place(position)));
            }
        }
    }
    if random {
        Verdict::PassedByShape
    } else {
        Verdict::Passed
    }
}

/// The inputs by name and the expected outputs of a data set.
fn read(graph: &Graph, set: &DataSet) -> Result<(Feeds, Vec<Tensor>), Verdict> {
    // Data sets of old files hold values for inputs that are initializers, too, or not, as they like.
    let feeds: Vec<&ValueInfo> = graph.feeds().collect();
    let inputs = if set.inputs.len() <= feeds.len() {
        feeds
    } else {
        graph.inputs.iter().collect()
    };
    if set.inputs.len() > inputs.len() || set.outputs.len() > graph.outputs.len() {
        return Err(Verdict::Wrong("there are more data than declared values".to_owned()));
    }
    let mut values = Feeds::new();
    for (declared, bytes) in inputs.into_iter().zip(&set.inputs) {
        if let Some(bytes) = bytes {
            let value = tensor(declared, bytes, "input")?;
            if let Some(contradiction) = contradiction(declared, &value) {
                return Err(Verdict::Refused(contradiction));
            }
            values.insert(declared.name().to_owned(), value);
        }
    }
    let mut expected = Vec::with_capacity(set.outputs.len());
    for (declared, bytes) in graph.outputs.iter().zip(&set.outputs) {
        let Some(bytes) = bytes else {
            return Err(Verdict::Wrong("an expected output is missing".to_owned()));
        };
        expected.push(tensor(declared, bytes, "output")?);
    }
    Ok((values, expected))
}

/// How an input is not what the model declares, if it is not.
fn contradiction(declared: &ValueInfo, value: &Tensor) -> Option<String> {
    let shape = declared.shape()?;
    let fits = |(size, &actual): (&Dimension, &usize)| !matches!(size, Dimension::Fixed(size) if *size != actual);
    let contradicts = shape.len() != value.shape().len() || !shape.iter().zip(value.shape()).all(fits);
    contradicts.then(|| {
        let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
        format!(
            "the case contradicts itself: input `{}` is declared as [{}] and is {:?}",
            declared.name(),
            sizes.join(", "),
            value.shape()
        )
    })
}

fn tensor(declared: &ValueInfo, bytes: &Bytes, kind: &str) -> Result<Tensor, Verdict> {
    let place = format!("{kind} `{}`", declared.name());
    match declared.dtype() {
        None => {
            let reason = "is a sequence, an optional or a map; engines exchange tensors alone";
            return Err(Verdict::Refused(format!("{place} {reason}")));
        }
        Some(DType::STRING) => {
            let reason = "holds strings; engines exchange tensors of numbers alone";
            return Err(Verdict::Refused(format!("{place} {reason}")));
        }
        Some(_) => {}
    }
    proto::TensorProto::decode(&mut bytes.clone())
        .map_err(|error| error.to_string())
        .and_then(|mut message| {
            // ONNX before 1.13 wrote the data of bfloat16 as uint16 of the same bits.
            if declared.dtype() == Some(DType::BFLOAT16) && message.data_type == Some(DType::UINT16.number()) {
                message.data_type = Some(DType::BFLOAT16.number());
            }
            codec::tensor_from_message(&message).map_err(|error| error.to_string())
        })
        .map_err(|message| Verdict::Wrong(format!("{place} is not read: {message}")))
}
