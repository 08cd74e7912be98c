//! A case: a model, inputs, and the outputs that are expected.

use bytes::Bytes;

/// Inputs and the outputs that are expected for them, as encoded messages.
///
/// A value's place is its position among the graph's declared inputs or outputs; `None` where the data set has
/// no value for a place before its last.
#[derive(Clone, Debug, Default)]
pub struct DataSet {
    /// The inputs: `TensorProto`, or what the graph declares instead.
    pub inputs: Vec<Option<Bytes>>,
    /// The outputs.
    pub outputs: Vec<Option<Bytes>>,
}

/// A model with its data sets.
#[derive(Clone, Debug)]
pub struct Case {
    /// The suite: `node`, `simple`, `pytorch-operator`, `pytorch-converted` or `node-1.23`.
    pub suite: String,
    /// The name within the suite, as the ONNX project has it: `test_…`.
    pub name: String,
    /// The model's file.
    pub model: Bytes,
    /// The data sets.
    pub data: Vec<DataSet>,
}

impl Case {
    pub(crate) fn new(suite: &str, name: &str) -> Self {
        Self {
            suite: suite.to_owned(),
            name: name.to_owned(),
            model: Bytes::new(),
            data: Vec::new(),
        }
    }

    /// The name among all suites: `SUITE/NAME`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.suite, self.name)
    }
}
