//! Shape inference on every model of the conformance suites: against that of the Python package `onnx`, and against
//! the outputs that are expected of the models. And on graphs built by hand.

mod outputs;
mod package;
mod partial;
